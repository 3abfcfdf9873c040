"""One step does what it says: it learns, moves the target, and leaves what it must not touch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipelines.contract import Batch
from relic import recipes
from relic.config import ModelConfig, OptimConfig, RunConfig
from relic.distributed import World
from relic.losses.negatives import draw_negatives
from relic.models.twin import Twin
from relic.state import TrainState, build_state
from relic.step import split, train_step

CPU = World(device=torch.device("cpu"))
MODEL = ModelConfig(backbone="resnet18x0.125", stem="cifar", projector_hidden=16, predictor_hidden=16, projection_dim=8)


def a_config(recipe: str = "cifar10_r18", **changes) -> RunConfig:
    config = replace(recipes.get(recipe), model=MODEL, optim=OptimConfig(name="sgd"), precision="float32")
    return replace(config, **changes)


def a_batch(images: int = 8, size: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def views(count: int, side: int) -> list[torch.Tensor]:
        return [torch.randint(0, 256, (images, side, side, 3), generator=generator).byte() for _ in range(count)]

    labels = torch.arange(images) % 3
    return Batch(index=torch.arange(images), label=labels, large=views(2, size), small=views(2, size // 2))


def steps(state: TrainState, config: RunConfig, count: int, *, rate: float = 0.05, decay: float = 0.9) -> list[float]:
    parts = config.optim.accumulate
    tables = [torch.from_numpy(draw_negatives(8 // parts, 3, seed=0, step=part)) for part in range(parts)]
    return [
        float(train_step(state, a_batch(), tables, learning_rate=rate, target_decay=decay)["loss"])
        for _ in range(count)
    ]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("recipe", ["cifar10_r18", "supervised_r50"])
def test_the_loss_falls_on_one_batch(recipe, precision):
    config = a_config(recipe, precision=precision)
    losses = steps(build_state(config, CPU, num_classes=3), config, 15)
    assert losses[-1] < 0.7 * losses[0]


def test_all_parameters_stay_float32_under_bfloat16():
    config = a_config(precision="bfloat16")
    state = build_state(config, CPU, num_classes=3)
    steps(state, config, 1)
    assert {parameter.dtype for parameter in state.model.parameters()} == {torch.float32}


def test_the_target_moves_by_one_minus_decay_and_takes_no_gradient():
    config = a_config()
    state = build_state(config, CPU, num_classes=3)
    assert isinstance(state.model, Twin)
    before = state.model.target.backbone.conv1.weight.clone()
    steps(state, config, 1, decay=0.75)
    online, target = state.model.online.backbone.conv1.weight, state.model.target.backbone.conv1.weight
    torch.testing.assert_close(target, 0.75 * before + 0.25 * online.detach())
    assert not torch.equal(online, before)
    assert all(parameter.grad is None for parameter in state.model.target.parameters())


def test_running_statistics_come_from_large_views_only():
    config = a_config()
    states = [build_state(config, CPU, num_classes=3) for _ in range(2)]
    batch = a_batch()
    negatives = [torch.from_numpy(draw_negatives(8, 5, seed=0, step=0))]
    for state, small in zip(states, (batch.small, [view.flip(0) // 2 for view in batch.small]), strict=True):
        train_step(state, replace(batch, small=small), negatives, learning_rate=0.0, target_decay=1.0)
    left, right = (dict(state.model.named_buffers()) for state in states)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert left["online.backbone.bn1.num_batches_tracked"] == 2


def test_the_target_sees_large_views_only():
    config = a_config()
    state = build_state(config, CPU, num_classes=3)
    steps(state, config, 1)
    assert dict(state.model.named_buffers())["target.backbone.bn1.num_batches_tracked"] == 2


def test_float16_scales_the_loss_and_others_do_not():
    for precision, enabled in (("float32", False), ("bfloat16", False), ("float16", True)):
        state = build_state(a_config(precision=precision), CPU, num_classes=3)
        assert state.scaler.is_enabled() is enabled


def test_parameters_lie_in_channels_last_memory():
    state = build_state(a_config(), CPU, num_classes=3)
    assert state.model.online.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_parts_of_a_batch_add_up_to_its_mean_gradient():
    """Backward passes of two halves, each with batch statistics and negatives of its own, make one update."""
    whole = a_batch()
    config = a_config(optim=OptimConfig(name="sgd", accumulate=2))
    state = build_state(config, CPU, num_classes=3)
    single = a_config(optim=OptimConfig(name="sgd"))
    gradients = []
    for part, half in enumerate(split(whole, 2)):
        alone = build_state(single, CPU, num_classes=3)
        train_step(alone, half, [negatives_of(4, part)], learning_rate=0.0, target_decay=1.0)
        gradients.append({name: p.grad for name, p in alone.model.named_parameters() if p.grad is not None})
    train_step(state, whole, [negatives_of(4, 0), negatives_of(4, 1)], learning_rate=0.0, target_decay=1.0)
    for name, parameter in state.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(
                parameter.grad, (gradients[0][name] + gradients[1][name]) / 2, rtol=1e-4, atol=1e-6
            )


def test_float16_skips_a_few_infinite_gradients_and_tells_of_those_that_stay():
    state = build_state(a_config(precision="float16"), CPU, num_classes=3)
    next(state.model.online.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    finite = [
        float(train_step(state, a_batch(), [negatives_of(8, 0)], learning_rate=0.01, target_decay=0.9)["finite"])
        for _ in range(19)
    ]
    assert finite[0] == finite[10] == 1  # the scale falls by half each time, from 65,536
    assert finite[-1] == 0


def negatives_of(images: int, step: int) -> torch.Tensor:
    return torch.from_numpy(draw_negatives(images, 3, seed=0, step=step))


def test_concatenated_views_give_what_separate_passes_give():
    batch, found = a_batch(), []
    for concatenate in (False, True):
        config = a_config(model=replace(MODEL, concatenate_views=concatenate))
        state = build_state(config, CPU, num_classes=3)
        metrics = train_step(state, batch, [negatives_of(8, 0)], learning_rate=0.01, target_decay=0.9)
        found.append((metrics, state.model.state_dict()))
    (separate, left), (together, right) = found
    torch.testing.assert_close(together["loss"], separate["loss"])
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(right[name], left[name], rtol=1e-4, atol=1e-5, msg=name)


def test_clipping_bounds_the_gradient_and_reports_its_norm_before():
    config = a_config(optim=OptimConfig(name="sgd", clip_norm=0.01))
    state = build_state(config, CPU, num_classes=3)
    metrics = train_step(state, a_batch(), [negatives_of(8, 0)], learning_rate=0.0, target_decay=1.0)
    after = torch.stack([p.grad.norm() for p in state.trained if p.grad is not None]).norm()
    assert float(metrics["gradient_norm"]) > 0.01
    assert float(after) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("where", "finite"), [("nowhere", 1.0), ("weights", 0.0), ("gradient", 0.0)])
def test_what_is_not_finite_is_seen_on_the_device(where, finite):
    state = build_state(a_config(), CPU, num_classes=3)
    last = state.model.online.predictor or state.model.online.projector
    if where == "weights":
        with torch.no_grad():
            last[-1].weight[0, 0] = float("nan")
    if where == "gradient":
        last[-1].weight.register_hook(lambda gradient: gradient * float("inf"))
    metrics = train_step(state, a_batch(), [negatives_of(8, 0)], learning_rate=0.0, target_decay=1.0)
    assert float(metrics["finite"]) == finite


@pytest.mark.parametrize("recipe", ["cifar10_r18", "supervised_r50"])
def test_memory_layouts_compute_the_same(recipe):
    losses = []
    for channels_last in (True, False):
        config = a_config(recipe, channels_last=channels_last)
        state = build_state(config, CPU, num_classes=3)
        losses.append(steps(state, config, 2))
        weight = dict(state.model.named_parameters())[
            "online.backbone.layer1.0.conv1.weight" if recipe == "cifar10_r18" else "backbone.layer1.0.conv1.weight"
        ]
        assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
