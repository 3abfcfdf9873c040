"""Stored images (and masks) to augmented views on a device. Knows no model."""
