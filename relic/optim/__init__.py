"""Optimizers, and what they leave out."""

from relic.optim.groups import build_optimizer, clip_gradients, parameter_groups, set_learning_rate
from relic.optim.lars import Lars

__all__ = ["Lars", "build_optimizer", "clip_gradients", "parameter_groups", "set_learning_rate"]
