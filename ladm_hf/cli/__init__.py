"""The commands of `ladm`, one file a family of them."""
