"""The training objective and the choice of negatives: `relic_loss` is fused, `reference_loss` its specification."""

from relic.losses.fused import relic_loss
from relic.losses.negatives import draw_negatives
from relic.losses.relic import RelicLoss
from relic.losses.relic import relic_loss as reference_loss

__all__ = ["RelicLoss", "draw_negatives", "reference_loss", "relic_loss"]
