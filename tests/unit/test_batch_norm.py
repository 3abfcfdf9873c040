"""Batch norm over views is nn.BatchNorm where there is one view and one process, and keeps its keys."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from relic.models import build_backbone
from relic.models.batch_norm import ViewBatchNorm, set_views, use_view_batch_norm
from relic.models.twin import frozen_running_statistics
from relic.models.views import run_views


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = build_backbone("resnet18x0.125", stem="cifar")
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.2)
    return plain, use_view_batch_norm(copy.deepcopy(plain), world_size=1)


def test_keys_parameters_and_bits_are_those_of_the_plain_network():
    plain, ours = pair()
    assert sum(isinstance(part, ViewBatchNorm) for part in ours.modules()) == sum(
        isinstance(part, nn.BatchNorm2d) for part in plain.modules()
    )
    assert plain.state_dict().keys() == ours.state_dict().keys()
    view = torch.randn(6, 3, 16, 16)
    for training in (True, False):
        plain.train(training)
        ours.train(training)
        assert torch.equal(plain(view), ours(view))
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("frozen", [False, True])
def test_views_in_one_pass_have_their_own_statistics_and_leave_those_of_separate_passes(frozen):
    plain, ours = pair()
    views = [torch.randn(5, 3, 16, 16) * scale for scale in (1.0, 3.0, 0.2)]
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    if frozen:
        with frozen_running_statistics(ours):
            together = run_views(ours, views, concatenate=True)
        assert all(torch.equal(ours.state_dict()[name], value) for name, value in before.items())
        return
    together = run_views(ours, views, concatenate=True)
    separate = run_views(plain, views, concatenate=False)
    for left, right in zip(together, separate, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
    mixed = ours(torch.cat(views))[:5]
    assert (mixed - separate[0]).abs().max() > 1e-2  # one view of them all is another thing


def test_the_number_of_views_goes_back_to_one():
    _, ours = pair()
    with pytest.raises(RuntimeError):
        run_views(ours, [torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)], concatenate=True)
    assert {part.views for part in ours.modules() if isinstance(part, ViewBatchNorm)} == {1}
    set_views(ours, 3)
    assert {part.views for part in ours.modules() if isinstance(part, ViewBatchNorm)} == {3}


def test_what_has_no_channels_is_refused():
    with pytest.raises(ValueError, match=r"batch norm needs \[N, C, ...\], not \[4\]"):
        ViewBatchNorm(4)(torch.zeros(4))


class Activating(nn.BatchNorm2d):
    """Does more than normalise, as timm's BatchNormAct2d."""


@pytest.mark.parametrize("norm", [Activating(4), nn.BatchNorm2d(4, momentum=None)])
def test_norms_that_do_something_else_are_refused(norm):
    with pytest.raises(ValueError, match="cannot share statistics or take concatenated views: run it on one process"):
        use_view_batch_norm(nn.Sequential(norm), world_size=2)


def test_a_norm_without_running_statistics_uses_those_of_the_batch_in_evaluation_too():
    plain = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).eval()
    view = torch.randn(4, 3, 5, 5)
    expected = plain(view)
    assert torch.equal(use_view_batch_norm(plain, world_size=1)(view), expected)
