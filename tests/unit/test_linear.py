"""Linear heads: the right optimizer, an honest choice, and no luck on noise."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from stored_runs import colour_beton
from torch import nn

from relic.evaluate.config import LinearConfig
from relic.evaluate.features import Features, extract
from relic.evaluate.linear import (
    CACHED_UP_TO,
    Head,
    Sweep,
    accuracy,
    batch_size_for,
    epochs_of,
    load_head,
    mode,
    save_head,
    split,
    train_augmented,
    train_cached,
)

QUICK = LinearConfig(epochs=10, learning_rates=(0.03, 0.3, 3.0))


def toy(num_images: int, seed: int, *, num_classes: int = 5, separation: float = 6.0) -> Features:
    centres = separation * torch.eye(num_classes, 16)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    features = centres[labels] + torch.randn(num_images, 16, generator=generator)
    return Features(features=features, labels=labels, index=torch.arange(num_images))


class MeanColour(nn.Module):
    """A frozen backbone with a batch norm, which must not move."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(images).mean((2, 3))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_sweep_is_torchs_nesterov_sgd_head_by_head(decay):
    data, steps = toy(32, 0), 7
    settings = [(0.03, decay), (0.5, decay)]
    sweep = Sweep(settings, num_classes=5, num_features=16, total_steps=steps, batch_size=32, device="cpu")
    for _ in range(steps):
        sweep.step(data.features, data.labels)
    for number, (rate, _) in enumerate(settings):
        layer = nn.Linear(16, 5)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        groups = [{"params": [layer.weight], "weight_decay": decay}, {"params": [layer.bias]}]
        optimizer = torch.optim.SGD(groups, lr=rate * 32 / 256, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(data.features), data.labels).backward()
            optimizer.step()
            schedule.step()
        head = sweep.head(number, held_out_accuracy=None)
        torch.testing.assert_close(head.weight, layer.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(head.bias, layer.bias.detach(), atol=1e-5, rtol=1e-4)


def test_separable_classes_are_separated():
    head = train_cached(toy(600, 0), QUICK)
    assert accuracy(head, toy(300, 1))["linear"] > 0.98
    assert head.held_out_accuracy is not None
    assert head.held_out_accuracy > 0.95


def test_random_labels_stay_at_chance_on_held_out_and_test_images():
    """400 features of 800 images hold any labels by heart: a head that had seen the held-out ones would know them."""
    generator = torch.Generator().manual_seed(5)

    def noise(num_images: int) -> Features:
        return Features(
            features=torch.randn(num_images, 400, generator=generator),
            labels=torch.randint(5, (num_images,), generator=generator),
            index=torch.arange(num_images),
        )

    train = noise(800)
    head = train_cached(train, QUICK)
    assert accuracy(head, train)["linear"] > 0.8
    assert head.held_out_accuracy == pytest.approx(0.2, abs=0.135)  # 3 standard deviations of 80 images
    assert accuracy(head, noise(2000))["linear"] == pytest.approx(0.2, abs=0.03)


def test_held_out_images_choose_the_best_of_the_sweep():
    """A rate of zero learns nothing and an infinite one diverges to NaN: the working one between must win."""
    head = train_cached(toy(600, 0), replace(QUICK, learning_rates=(0.0, 0.3, math.inf)))
    assert head.learning_rate == 0.3
    # NaN logits make argmax say class 0, as logits that are all zero do: that must not win either.
    assert train_cached(toy(600, 0), replace(QUICK, learning_rates=(math.inf, 0.0))).learning_rate == 0.0
    head = train_cached(toy(600, 0), replace(QUICK, learning_rates=(0.3,), weight_decays=(1.0, 1e-4)))
    assert head.weight_decay == 1e-4


def test_of_heads_that_are_equally_right_the_surer_one_wins():
    data = toy(600, 0, separation=30.0)
    head = train_cached(data, replace(QUICK, epochs=1, learning_rates=(1e-4, 0.1)))
    assert (head.held_out_accuracy, head.learning_rate) == (1.0, 0.1)


def test_the_chosen_setting_is_trained_again_on_all_images():
    train = toy(600, 0)
    chosen = train_cached(train, QUICK)
    alone = train_cached(train, replace(QUICK, learning_rates=(chosen.learning_rate,)))
    assert torch.equal(chosen.weight, alone.weight)
    assert alone.held_out_accuracy is None


def test_the_seed_decides_every_bit():
    train = toy(600, 0, separation=1.0)
    first, again = train_cached(train, QUICK), train_cached(train, QUICK)
    other = train_cached(train, replace(QUICK, seed=1))
    assert torch.equal(first.weight, again.weight)
    assert first.held_out_accuracy == again.held_out_accuracy
    assert not torch.equal(first.weight, other.weight)


def test_mirror_images_train_too():
    train = toy(600, 0)
    # The mirror images of this class lie elsewhere: a head that never saw them cannot know.
    mirrored = replace(train, flipped=-train.features)
    seen, unseen = train_cached(mirrored, QUICK), train_cached(train, QUICK)
    test = toy(300, 1)
    test = replace(test, features=-test.features)
    assert accuracy(seen, test)["linear"] > accuracy(unseen, test)["linear"] + 0.1


def test_split_holds_out_a_tenth_and_nothing_of_a_single_head():
    training, held_out = split(200, QUICK)
    assert len(held_out) == 20
    assert torch.equal(torch.cat([training, held_out]).sort().values, torch.arange(200))
    assert not torch.equal(held_out, split(200, replace(QUICK, seed=1))[1])
    training, held_out = split(200, replace(QUICK, learning_rates=(0.3,)))
    assert (len(training), len(held_out)) == (200, 0)


@pytest.mark.parametrize(("share", "num_images"), [(0.0, 100), (1.0, 100), (0.1, 1)])
def test_a_split_that_leaves_nothing_is_refused(share, num_images):
    with pytest.raises(ValueError, match=rf"held_out={share:g} of {num_images} training images leaves none"):
        split(num_images, replace(QUICK, held_out=share))


def test_an_empty_sweep_is_refused():
    with pytest.raises(ValueError, match="the linear sweep is empty"):
        train_cached(toy(100, 0), replace(QUICK, learning_rates=()))


@pytest.mark.parametrize(("num_images", "batch_size"), [(1_281_167, 1024), (16_384, 1024), (16_383, 512), (3, 1)])
def test_small_data_takes_smaller_batches(num_images, batch_size):
    assert batch_size_for(num_images, LinearConfig()) == batch_size


def test_auto_caches_small_data_only():
    assert [mode(LinearConfig(), n) for n in (CACHED_UP_TO, CACHED_UP_TO + 1)] == ["cached", "augmented"]
    assert mode(LinearConfig(features="augmented"), 10) == "augmented"


def test_progress_counts_as_many_epochs_as_were_announced(tmp_path):
    train = toy(100, 0)
    for config in (QUICK, replace(QUICK, learning_rates=(0.3,))):
        counted: list[int] = []
        train_cached(train, config, on_progress=counted.append)
        assert sum(counted) == epochs_of(config, "cached")


def test_accuracies_of_an_imbalanced_set_by_hand():
    head = Head(weight=torch.eye(7), bias=torch.zeros(7), learning_rate=1.0, weight_decay=0.0, held_out_accuracy=None)
    # Guesses are the largest feature: class 0 right on 3 of 4, class 2 on 0 of 1, others do not occur.
    features = torch.zeros(5, 7)
    features[torch.arange(5), torch.tensor([0, 0, 0, 1, 1])] = 9.0
    features[4] = torch.tensor([5.0, 9.0, 0.0, 8.0, 7.0, 6.0, 4.0])  # class 2 comes last
    test = Features(features=features, labels=torch.tensor([0, 0, 0, 0, 2]), index=torch.arange(5))
    found = accuracy(head, test)
    assert found["linear"] == pytest.approx(3 / 5)
    assert found["linear_per_class"] == pytest.approx((3 / 4 + 0) / 2)
    assert found["linear_top5"] == pytest.approx(4 / 5)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    return colour_beton(folder / "train.beton", per_class=24), colour_beton(folder / "test.beton", per_class=8, seed=1)


def test_augmented_training_learns_through_the_loader(colours):
    backbone = MeanColour().train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    config = LinearConfig(features="augmented", epochs=4, learning_rates=(0.0, 3.0, 30.0))
    train, test = (extract(backbone, path, view_size=12, share=1.0) for path in colours)
    counted: list[int] = []
    head = train_augmented(backbone, colours[0], train, config, view_size=12, on_progress=counted.append)
    assert accuracy(head, test)["linear"] > 0.9
    assert head.held_out_accuracy is not None
    assert sum(counted) == epochs_of(config, "augmented") == 4
    assert backbone.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    again = train_augmented(backbone, colours[0], train, config, view_size=12)
    assert torch.equal(head.weight, again.weight)


def test_augmented_training_never_sees_held_out_images(colours, monkeypatch):
    backbone = MeanColour()
    train = extract(backbone, colours[0], view_size=12, share=1.0)
    config = LinearConfig(features="augmented", epochs=2, held_out=0.25)
    shown: list[int] = []
    real = Sweep.step

    def counting(self, features, labels):
        shown.append(len(labels))
        real(self, features, labels)

    monkeypatch.setattr(Sweep, "step", counting)
    train_augmented(backbone, colours[0], train, config, view_size=12)
    assert sum(shown) == 2 * len(split(72, config)[0]) == 2 * 54
    shown.clear()
    train_augmented(backbone, colours[0], train, replace(config, learning_rates=(0.3,)), view_size=12)
    assert sum(shown) == 2 * 72


def test_augmented_views_change_each_epoch(colours, monkeypatch):
    seen: list[torch.Tensor] = []
    real = Sweep.step
    monkeypatch.setattr(Sweep, "step", lambda self, x, y: (seen.append(x.clone()), real(self, x, y))[1])
    backbone = MeanColour()
    train = extract(backbone, colours[0], view_size=12, share=1.0)
    config = LinearConfig(features="augmented", epochs=2, learning_rates=(0.3,))
    train_augmented(backbone, colours[0], train, config, view_size=12)
    first, second = torch.cat(seen).chunk(2)
    assert not torch.allclose(first.sort(0).values, second.sort(0).values)


def test_a_head_survives_its_file(tmp_path):
    head = train_cached(toy(100, 0), QUICK)
    save_head(head, tmp_path / "head.safetensors", {"step": "12"})
    loaded, metadata = load_head(tmp_path / "head.safetensors")
    assert torch.equal(loaded.weight, head.weight)
    assert torch.equal(loaded.bias, head.bias)
    assert replace(loaded, weight=head.weight, bias=head.bias) == head
    assert metadata["step"] == "12"
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


def test_another_file_is_no_head(tmp_path):
    path = tmp_path / "head.safetensors"
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(ValueError, match="no safetensors file, or damaged"):
        load_head(path)
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no linear head"):
        load_head(path)
