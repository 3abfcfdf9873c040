"""Classify by the nearest neighbours in feature space; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from relic.evaluate.config import KnnConfig
from relic.evaluate.features import Features

TRAIN_CHUNK, TEST_CHUNK = 65_536, 1_024  # their similarities take 256 MiB


@torch.no_grad()
def knn(
    train: Features,
    test: Features,
    config: KnnConfig | None = None,
    *,
    leave_one_out: bool = False,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Classify `test` by its nearest images of `train`.

    Args:
        train: labelled features; only a chunk at a time goes to `device`.
        test: labelled features.
        config: neighbours and vote.
        leave_one_out: `test` is `train`: no image counts as its own neighbour.
        device: where similarities are computed, in float32.

    Returns:
        `knn@K` and `knn@K_top5` for each K, shares from 0 to 1.

    Raises:
        ValueError: a K that is no positive number or larger than the images to choose from.
    """
    config = config or KnnConfig()
    check_k(config.k, len(train.features) - leave_one_out)
    similarities, neighbours = nearest(
        train.features, test.features, max(config.k), leave_one_out=leave_one_out, device=device
    )
    neighbour_labels = train.labels[neighbours]
    num_classes = int(torch.cat([train.labels, test.labels]).max()) + 1
    results = {}
    for k in config.k:
        # float64, so that no sum of votes depends on the order of equal similarities
        weights = _weights(similarities[:, :k].double(), config)
        hits = torch.zeros(2, dtype=torch.int64)
        for rows in torch.arange(len(test.labels)).split(TEST_CHUNK):
            votes = torch.zeros(len(rows), num_classes, dtype=torch.float64)
            votes.scatter_add_(1, neighbour_labels[rows, :k], weights[rows])
            hits += _hits(votes, test.labels[rows])
        top1, top5 = (hits.double() / len(test.labels)).tolist()
        results |= {f"knn@{k}": top1, f"knn@{k}_top5": top5}
    return results


def check_k(ks: Sequence[int], available: int) -> None:
    """Raise ValueError for numbers of neighbours that are none, or more than the images to choose from."""
    if not ks or min(ks) < 1:
        raise ValueError(f"knn.k is {' '.join(map(str, ks)) or 'empty'}: give numbers of neighbours such as 10 20")
    if max(ks) > available:
        raise ValueError(
            f"knn.k={max(ks)} is more neighbours than the {available} training images to choose from: lower --knn.k"
        )


def nearest(
    train: Tensor,
    test: Tensor,
    k: int,
    *,
    leave_one_out: bool = False,
    device: torch.device | str = "cpu",
    train_chunk: int = TRAIN_CHUNK,
    test_chunk: int = TEST_CHUNK,
) -> tuple[Tensor, Tensor]:
    """Find the k rows of `train` with the largest cosine to each row of `test`.

    Args:
        train: float [N, D].
        test: float [M, D].
        k: at most N.
        leave_one_out: row i of `test` is row i of `train`, and is skipped.
        device: where chunks are compared.
        train_chunk, test_chunk: rows compared at a time, which bounds the memory.

    Returns:
        similarities float32 [M, k], largest first, and int64 [M, k] rows of `train`, on the CPU.
    """
    best = torch.full((len(test), k), -torch.inf)
    rows = torch.zeros((len(test), k), dtype=torch.int64)
    # Training chunks outside: those are the many, and each is copied to the device once.
    for first in range(0, len(train), train_chunk):
        candidates = F.normalize(train[first : first + train_chunk].to(device, torch.float32), dim=1)
        for start in range(0, len(test), test_chunk):
            span = slice(start, start + test_chunk)
            queries = F.normalize(test[span].to(device, torch.float32), dim=1)
            cosine = queries @ candidates.T
            if leave_one_out:
                own = torch.arange(start, start + len(queries), device=cosine.device) - first
                inside = (own >= 0) & (own < len(candidates))
                cosine[inside.nonzero().squeeze(1), own[inside]] = -torch.inf
            values, places = cosine.topk(min(k, len(candidates)), dim=1)
            merged = torch.cat([best[span], values.cpu()], 1)
            merged_rows = torch.cat([rows[span], places.cpu() + first], 1)
            best[span], order = merged.topk(k, dim=1)
            rows[span] = merged_rows.gather(1, order)
    return best, rows


def _weights(similarities: Tensor, config: KnnConfig) -> Tensor:
    if config.vote == "weighted":
        return torch.exp(similarities / config.temperature)
    # The cosines of one vote add up to less than one whole neighbour: they only decide ties.
    return 1 + similarities / (2 * similarities.shape[1])


def _hits(votes: Tensor, labels: Tensor) -> Tensor:
    """Return how many labels are the first, and among the first five, of the classes that have a vote."""
    values, classes = votes.topk(min(5, votes.shape[1]), dim=1)
    right = (classes == labels[:, None]) & (values > 0)
    return torch.stack([right[:, 0].sum(), right.any(1).sum()])
