"""Training and calibrating a calculator."""
