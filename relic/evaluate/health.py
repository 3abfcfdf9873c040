"""Is the run healthy? A low loss does not tell: collapsed networks reach one too. These numbers do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines.ops.normalize import normalize
from relic.evaluate.features import evaluation_mode
from relic.models.twin import Twin

# Below these the warnings speak. Small runs on CIFAR-10 that learn stay at 0.44 to 0.98 and 24 to 63 from their tenth
# step on; one at fifty times its learning rate had a projection_rankme of 1.07; one point has 0 and 1.
LEAST_FEATURE_STD = 0.05
LEAST_RANKME = 2.0


@dataclass(frozen=True, kw_only=True)
class Health:
    """How well a set of features fills its space; all three are NaN where a feature is not finite."""

    feature_std: float
    """Standard deviation of each L2-normalised feature over the images, mean over the features, times sqrt(D):
    1 for an isotropic cloud, 0 for one point (Chen and He, 2021, section 4.1)."""
    rankme: float
    """Exponential of the entropy of the normalised singular values, 1 to min(N, D): the number of directions that
    are really used (Garrido et al., 2023, eq. 1)."""
    uniformity: float
    """log of the mean of exp(-2 |x - y|^2) over pairs of normalised features: 0 for one point, near -4 for a
    uniform sphere (Wang and Isola, 2020, eq. 2)."""


def health(features: Tensor) -> Health:
    """Measure features float [N, D] of different images.

    Raises:
        ValueError: fewer than two images, of which nothing can be said.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"health wants features [N, D] of two or more images, not {list(features.shape)}")
    features = features.float()
    if not bool(torch.isfinite(features).all()):
        return Health(feature_std=math.nan, rankme=math.nan, uniformity=math.nan)
    directions = F.normalize(features, dim=1)
    std = directions.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5
    return Health(feature_std=float(std), rankme=rankme(features), uniformity=_uniformity(directions))


def rankme(features: Tensor) -> float:
    """Return RankMe of features float [N, D]: exp(-sum p log p) with p the singular values over their sum.

    Garrido et al., 2023, eq. 1, uncentred as there. All-zero features have rank 0.
    """
    # double: in float32 the noise of 2048 zero singular values adds up to a rank of its own
    spectrum = torch.linalg.svdvals(features.double())
    total = spectrum.sum()
    if total == 0:
        return 0.0
    return float(torch.exp(torch.special.entr(spectrum / total).sum()))


def target_distance(twin: Twin) -> float:
    """Return |online - target| / |online| over the parameters that both networks have.

    0 when they are equal, as before the first step; NaN or infinite when a network has diverged.
    """
    online = [*twin.online.backbone.parameters(), *twin.online.projector.parameters()]
    target = [*twin.target.backbone.parameters(), *twin.target.projector.parameters()]
    differences = torch._foreach_sub([p.detach() for p in online], [p.detach() for p in target])
    return float(_norm(differences) / _norm([p.detach() for p in online]))


@torch.no_grad()
def measure(twin: Twin, views: Sequence[Tensor], device: torch.device) -> dict[str, float]:
    """Measure the online network on a fixed subset of images, in evaluation mode and float32.

    Args:
        twin: left as it was, its batch norms' running statistics and training mode too.
        views: uint8 [n, H, W, 3] centre crops, a batch each.
        device: where the networks are.

    Returns:
        `feature_std`, `rankme`, `uniformity` of the backbone's features; `projection_std`, `projection_rankme` of
        the projections, which collapse first; `target_distance`.
    """
    features, projections = [], []
    with evaluation_mode(twin.online):
        for view in views:
            features.append(twin.online.backbone(normalize(view.to(device))))
            projections.append(twin.online.projector(features[-1]))
    backbone, projector = health(torch.cat(features)), health(torch.cat(projections))
    return {
        **dataclasses.asdict(backbone),
        "projection_std": projector.feature_std,
        "projection_rankme": projector.rankme,
        "target_distance": target_distance(twin),
    }


def health_warnings(metrics: Mapping[str, float]) -> list[str]:
    """Say in plain words what is wrong with what `measure` returned; an empty list when nothing is.

    Complete collapse is a std below LEAST_FEATURE_STD, collapse to a few directions a RankMe below LEAST_RANKME.
    """
    if not all(math.isfinite(value) for value in metrics.values()):
        broken = ", ".join(name for name, value in metrics.items() if not math.isfinite(value))
        return [
            f"the networks have diverged ({broken} not finite): go back to an older checkpoint with a lower"
            " optim.base_learning_rate or a longer optim.warmup"
        ]
    found = []
    for name, std, rank in (
        ("features", "feature_std", "rankme"),
        ("projections", "projection_std", "projection_rankme"),
    ):
        if std in metrics and metrics[std] < LEAST_FEATURE_STD:
            found.append(
                f"{name} have collapsed: nearly the same for every image ({std} {metrics[std]:.3f}, healthy above"
                f" {LEAST_FEATURE_STD}): check that the predictor, the target network and the negatives are on"
            )
        elif rank in metrics and metrics[rank] < LEAST_RANKME:
            found.append(
                f"{name} use one direction only ({rank} {metrics[rank]:.2f}, healthy above {LEAST_RANKME:.0f}):"
                " the learning rate is probably too high"
            )
    return found


def _uniformity(directions: Tensor) -> float:
    squared = 2 - 2 * (directions @ directions.T)
    pairs = torch.triu_indices(len(directions), len(directions), offset=1, device=directions.device)
    energies = -2 * squared[pairs[0], pairs[1]].clamp_min(0).double()
    return float(torch.logsumexp(energies, 0) - math.log(energies.numel()))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
