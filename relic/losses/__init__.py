"""The training objective and the choice of negatives."""

from relic.losses.negatives import draw_negatives
from relic.losses.relic import RelicLoss, relic_loss

__all__ = ["RelicLoss", "draw_negatives", "relic_loss"]
