"""Triton kernels for CUDA, each beside what it must equal; imported where they run, as Triton is optional."""
