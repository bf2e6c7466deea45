"""The best documents of every domain, to a token budget: [`select`]."""
