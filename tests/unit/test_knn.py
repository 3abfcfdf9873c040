"""Nearest neighbours against a brute-force transcription."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from relic.evaluate.config import KnnConfig
from relic.evaluate.features import Features
from relic.evaluate.knn import knn, nearest


def clusters(num_images: int, seed: int, num_classes: int = 7, spread: float = 1.6) -> Features:
    centres = np.random.default_rng(99).normal(size=(num_classes, 12))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    features = (centres[labels] + spread * rng.normal(size=(num_images, 12))) * rng.uniform(0.1, 9, (num_images, 1))
    return Features(
        features=torch.from_numpy(features).float(),
        labels=torch.from_numpy(labels),
        index=torch.arange(num_images),
    )


def brute_force(train: Features, test: Features, k: int, vote: str, temperature: float, skip_self: bool):
    """Vote image by image in float64."""
    a, b = (each.features.double().numpy() for each in (train, test))
    cosines = (b @ a.T) / np.linalg.norm(b, axis=1)[:, None] / np.linalg.norm(a, axis=1)
    labels, wanted = train.labels.numpy(), test.labels.numpy()
    top1 = top5 = 0
    for row, cosine in enumerate(cosines):
        if skip_self:
            cosine[row] = -np.inf
        votes: dict[int, tuple[float, float]] = {}
        for neighbour in np.argsort(-cosine)[:k]:
            weight = np.exp(cosine[neighbour] / temperature) if vote == "weighted" else 1.0
            total, nearness = votes.get(int(labels[neighbour]), (0.0, 0.0))
            votes[int(labels[neighbour])] = (total + weight, nearness + cosine[neighbour])
        ranked = sorted(votes, key=lambda label: votes[label], reverse=True)
        top1 += ranked[0] == wanted[row]
        top5 += wanted[row] in ranked[:5]
    return top1 / len(b), top5 / len(b)


@pytest.mark.parametrize("vote", ["weighted", "majority"])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_votes_are_those_of_brute_force(vote, leave_one_out):
    train = clusters(230, 0)
    test = train if leave_one_out else clusters(90, 1)
    found = knn(train, test, KnnConfig(k=(1, 6, 20), vote=vote, temperature=0.2), leave_one_out=leave_one_out)
    for k in (1, 6, 20):
        top1, top5 = brute_force(train, test, k, vote, 0.2, leave_one_out)
        assert found[f"knn@{k}"] == pytest.approx(top1, abs=1e-12)
        assert found[f"knn@{k}_top5"] == pytest.approx(top5, abs=1e-12)
    assert 0.3 < found["knn@20"] < 0.99  # hard enough to tell votes apart


def test_the_votes_differ_from_each_other():
    train, test = clusters(230, 0, spread=3.0), clusters(400, 1, spread=3.0)
    weighted = knn(train, test, KnnConfig(k=(20,)))
    assert weighted == knn(train, test, KnnConfig(k=(20,), vote="weighted", temperature=0.07))
    assert weighted != knn(train, test, KnnConfig(k=(20,), vote="majority"))


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("chunks", [(1000, 1000), (7, 3), (5, 64)])  # chunks smaller than k too
def test_chunks_change_nothing(chunks, leave_one_out):
    train = clusters(41, 0)
    test = train if leave_one_out else clusters(23, 1)
    similarities, rows = nearest(
        train.features,
        test.features,
        9,
        leave_one_out=leave_one_out,
        train_chunk=chunks[0],
        test_chunk=chunks[1],
    )
    unit = torch.nn.functional.normalize
    cosine = unit(test.features.double(), dim=1) @ unit(train.features.double(), dim=1).T
    if leave_one_out:
        cosine.fill_diagonal_(-torch.inf)
    values, places = cosine.topk(9, dim=1)
    assert torch.equal(rows, places)
    torch.testing.assert_close(similarities.double(), values, atol=1e-6, rtol=0)


def test_without_leave_one_out_every_image_finds_itself():
    train = clusters(50, 0, spread=9.0)
    assert knn(train, train, KnnConfig(k=(1,)))["knn@1"] == 1.0
    assert knn(train, train, KnnConfig(k=(1,)), leave_one_out=True)["knn@1"] < 0.6


@pytest.mark.parametrize(
    ("k", "leave_one_out", "said"),
    [
        ((10, 31), False, "knn.k=31 is more neighbours than the 30 training images to choose from: lower --knn.k"),
        ((30,), True, "more neighbours than the 29 training images"),
        ((0, 5), False, "knn.k is 0 5: give numbers of neighbours"),
        ((), False, "knn.k is empty"),
    ],
)
def test_an_impossible_k_is_refused(k, leave_one_out, said):
    train = clusters(30, 0)
    with pytest.raises(ValueError, match=said):
        knn(train, train, KnnConfig(k=k), leave_one_out=leave_one_out)
    assert knn(train, train, KnnConfig(k=(29 if leave_one_out else 30,)), leave_one_out=leave_one_out)
