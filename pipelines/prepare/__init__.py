"""Folders, tars and zips of images to betons; what is inside a beton; whether all of it decodes."""
