"""ReLICv2: the method, its training loop, evaluation and command line (arXiv 2201.05119)."""

__version__ = "0.1.0"
