"""Triton kernels for the views of a batch that lies on a GPU."""
