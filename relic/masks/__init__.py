"""Masks of data sets: joins what `saliency` makes of images to betons, folders and the engines that run tasks."""
