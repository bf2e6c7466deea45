"""A selection as figures and one page."""
