"""Networks: backbones, heads, and the pair of online and target network."""

from relic.models.backbones import build_backbone
from relic.models.heads import mlp
from relic.models.resnet import ResNet
from relic.models.twin import Twin, frozen_running_statistics

__all__ = ["ResNet", "Twin", "build_backbone", "frozen_running_statistics", "mlp"]
