"""Health figures of known spectra and clouds, and the warnings they give."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from pipelines.ops.normalize import normalize
from relic.evaluate.health import (
    LEAST_FEATURE_STD,
    LEAST_RANKME,
    health,
    health_warnings,
    measure,
    rankme,
    target_distance,
)
from relic.models import Twin, build_backbone

HEALTHY = {"feature_std": 0.5, "rankme": 30.0, "projection_std": 0.6, "projection_rankme": 30.0, "target_distance": 0.0}


def with_spectrum(spectrum: list[float], num_images: int = 64, num_features: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(num_images, len(spectrum), generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(num_features, len(spectrum), generator=generator, dtype=torch.float64)).Q
    return left @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ right.T


def small_twin() -> Twin:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18x0.125", stem="cifar")
    return Twin(backbone, projector_hidden=16, predictor_hidden=16, projection_dim=8)


def images(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (n, 16, 16, 3), dtype=torch.uint8, generator=generator) for n in (12, 12, 3)]


@pytest.mark.parametrize("rank", [1, 2, 17, 32])
def test_rankme_of_equal_singular_values_is_their_number(rank):
    assert rankme(with_spectrum([3.0] * rank)) == pytest.approx(rank, rel=1e-6)


def test_rankme_is_the_exponential_of_the_entropy():
    shares = [0.5, 0.25, 0.125, 0.125]
    expected = math.exp(-sum(p * math.log(p) for p in shares))  # 2^1.75
    assert rankme(with_spectrum([8 * p for p in shares])) == pytest.approx(expected, rel=1e-9)
    assert expected == pytest.approx(2**1.75)


def test_rankme_of_wide_float32_features_is_not_inflated_by_rounding():
    assert rankme(with_spectrum([1.0, 1.0], 256, 512).float()) == pytest.approx(2, abs=0.01)


def test_rankme_of_nothing_is_zero():
    assert rankme(torch.zeros(4, 3)) == 0.0


def test_an_isotropic_cloud_fills_its_space():
    measured = health(torch.randn(2000, 64, generator=torch.Generator().manual_seed(0)))
    assert measured.feature_std == pytest.approx(1.0, abs=0.01)
    assert measured.rankme == pytest.approx(64, abs=2)
    assert measured.uniformity == pytest.approx(-4 + 8 / 64, abs=0.01)  # E exp(-4 + 4 cosine), cosine ~ N(0, 1/64)


def test_the_scale_of_an_image_does_not_count_as_spread():
    generator = torch.Generator().manual_seed(0)
    measured = health(torch.ones(50, 8) * torch.rand(50, 1, generator=generator))
    assert measured.feature_std < 1e-3
    assert measured.rankme == pytest.approx(1.0, abs=1e-6)
    assert measured.uniformity == pytest.approx(0.0, abs=1e-5)


def test_uniformity_of_two_opposite_points():
    assert health(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).uniformity == pytest.approx(-8.0, abs=1e-5)


def test_features_that_are_not_finite_give_nan():
    features = torch.ones(4, 3)
    features[2, 1] = torch.inf
    measured = health(features)
    assert all(math.isnan(value) for value in (measured.feature_std, measured.rankme, measured.uniformity))


def test_one_image_is_refused():
    with pytest.raises(ValueError, match=r"two or more images, not \[1, 8\]"):
        health(torch.ones(1, 8))


def test_measure_leaves_the_twin_as_it_was():
    twin = small_twin()
    twin.online.projector[1].eval()  # a mode of its own that must come back
    before = copy.deepcopy(twin.state_dict())
    modes = [part.training for part in twin.modules()]
    measured = measure(twin, images(), torch.device("cpu"))
    assert [part.training for part in twin.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())
    assert set(measured) == {*HEALTHY, "uniformity"}
    assert measured == measure(twin, images(), torch.device("cpu"))


def test_measure_looks_at_the_online_network_in_evaluation_mode():
    twin = small_twin()
    measured = measure(twin, images(), torch.device("cpu"))
    twin.eval()
    with torch.no_grad():
        features = twin.online.backbone(normalize(torch.cat(images())))
        projections = twin.online.projector(features)
    assert measured["rankme"] == pytest.approx(rankme(features), rel=1e-4)
    assert measured["projection_std"] == pytest.approx(health(projections).feature_std, rel=1e-4)
    assert measured["projection_rankme"] == pytest.approx(rankme(projections), rel=1e-4)


def test_target_distance_is_relative():
    twin = small_twin()
    assert target_distance(twin) == 0.0
    with torch.no_grad():
        for parameter in [*twin.target.backbone.parameters(), *twin.target.projector.parameters()]:
            parameter.mul_(0.75)
    assert target_distance(twin) == pytest.approx(0.25, rel=1e-5)


def test_random_features_give_no_warning():
    features = torch.randn(256, 64, generator=torch.Generator().manual_seed(0)).relu()
    measured = health(features)
    assert health_warnings({"feature_std": measured.feature_std, "rankme": measured.rankme}) == []
    assert health_warnings(measure(small_twin(), images(), torch.device("cpu"))) == []


def test_constant_features_are_called_collapsed():
    measured = health(torch.ones(256, 64) + 1e-3 * torch.randn(256, 64, generator=torch.Generator().manual_seed(0)))
    warnings = health_warnings({"feature_std": measured.feature_std, "rankme": measured.rankme})
    assert len(warnings) == 1
    assert "features have collapsed: nearly the same for every image" in warnings[0]


def test_collapsed_projections_are_told_from_collapsed_features():
    network = small_twin()
    torch.nn.init.zeros_(network.online.projector[-1].weight)
    warnings = health_warnings(measure(network, images(), torch.device("cpu")))
    assert [warning.split(" have")[0] for warning in warnings] == ["projections"]


def test_one_direction_is_told_from_one_point():
    line = torch.linspace(-1, 1, 100)[:, None] * torch.ones(1, 16)
    measured = health(line)
    assert measured.feature_std > LEAST_FEATURE_STD
    assert health_warnings({"feature_std": measured.feature_std, "rankme": measured.rankme}) == [
        "features use one direction only (rankme 1.00, healthy above 2): the learning rate is probably too high"
    ]


@pytest.mark.parametrize("field", sorted(HEALTHY))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_called_divergence(field, value):
    warnings = health_warnings(HEALTHY | {field: value})
    assert len(warnings) == 1
    assert f"diverged ({field} not finite)" in warnings[0]


def test_thresholds_are_where_they_are_said_to_be():
    for std, rank in (("feature_std", "rankme"), ("projection_std", "projection_rankme")):
        assert health_warnings(HEALTHY | {std: LEAST_FEATURE_STD, rank: LEAST_RANKME}) == []
        assert len(health_warnings(HEALTHY | {std: LEAST_FEATURE_STD - 1e-6})) == 1
        assert len(health_warnings(HEALTHY | {rank: LEAST_RANKME - 1e-6})) == 1
