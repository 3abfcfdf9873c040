"""Evaluation: frozen features, kNN, linear heads, and the health of a run. Import the modules; this one is empty."""
