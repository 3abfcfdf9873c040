"""Data sets that come with the package or are made by it."""
