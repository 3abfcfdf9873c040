"""The loss with a few negatives per image, on the CPU: its own dot products only, values and gradient at once.

An anchor takes O T (2 n + 1) dot products, and its gradient as many multiples of vectors, where the reference makes
O T B of each and keeps them. Images are split over threads, and each image's numbers are made by one thread in one
order, so that the bits do not depend on how many there are. The gradient is derived in `relic.kernels.relic_loss`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

from relic.losses.relic import NORM_FLOOR

# Sums may be reordered, which fills vector registers; NaN and infinity keep their meaning.
jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})

TILE_ONLINE, TILE_TARGET = 2, 4
"""Dot products of so many views with so many share their loads: 5.4 ms where one view with four takes 9.2 (Zen 4)."""


def loss_and_gradient(
    online: Tensor,
    target: Tensor,
    negatives: Tensor,
    first_anchor: int,
    *,
    temperature: float,
    contrastive_weight: float,
    invariance_weight: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Compute the means of both terms, and the gradient of their weighted sum.

    Args:
        online: raw outputs [O, B, D] on the CPU.
        target: raw outputs [T, B, D].
        negatives: int64 [A, n], of the images from `first_anchor` on.
        first_anchor: first image whose loss is computed.
        temperature: softmax temperature.
        contrastive_weight: weight of eq. 3.
        invariance_weight: weight of eq. 4.
        with_gradient: whether the gradient is wanted.

    Returns:
        (contrastive, invariance) [2], and the gradient [O, B, D] or None; float32, or float64 for float64 outputs.

    Raises:
        IndexError: for a negative that is no image of the batch.
    """
    (num_online, num_images, _), num_target = online.shape, len(target)
    chosen = negatives.contiguous().numpy()
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < num_images:
        raise IndexError(f"negatives {chosen.min()} to {chosen.max()} are not all among the {num_images} images")
    o, norms = _units(online, TILE_ONLINE)
    t, _ = _units(target, TILE_TARGET)
    num_anchors, num_candidates = len(chosen), chosen.shape[1] + 1
    x, y = (np.empty((num_anchors, num_candidates, o.shape[1], t.shape[1]), o.dtype) for _ in range(2))
    terms = np.empty((num_anchors, 2))
    views = np.array([num_online, num_target])
    settings = np.array([1 / temperature, contrastive_weight, invariance_weight], o.dtype)
    _over_images(num_anchors, _fill_anchors, o, t, chosen, first_anchor, views, settings, x, y, terms)
    means = torch.from_numpy(terms.mean(axis=0) / (num_online * num_target)).to(torch.from_numpy(settings).dtype)
    if not with_gradient:
        return means, None
    gradient = np.empty(online.shape, o.dtype)
    named = _named_by(chosen, num_images)
    _over_images(num_images, _fill_gradient, o, t, norms, chosen, first_anchor, *named, x, y, gradient)
    return means, torch.from_numpy(gradient)


def _units(outputs: Tensor, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors [B, V, D], an image's views side by side and zeros up to a whole tile, and lengths [B, V]."""
    num_views, num_images, features = outputs.shape
    dtype = torch.promote_types(outputs.dtype, torch.float32)
    norms = torch.linalg.vector_norm(outputs, dim=-1, dtype=dtype).clamp_min_(NORM_FLOOR).T.contiguous()
    # numpy asks for huge pages, torch does not: the gathers from 16,384 images took 2.7 times as long with small ones.
    units = np.empty((num_images, math.ceil(num_views / tile) * tile, features), norms.numpy().dtype)
    torch.div(outputs.transpose(0, 1), norms[..., None], out=torch.from_numpy(units)[:, :num_views])
    units[:, num_views:] = 0
    return units, norms.numpy()


def _named_by(negatives: np.ndarray, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return who names image k among its negatives: entries[offsets[k] : offsets[k + 1]] are anchor · n + slot."""
    flat = negatives.ravel()
    offsets = np.zeros(num_images + 1, np.int64)
    np.cumsum(np.bincount(flat, minlength=num_images), out=offsets[1:])
    return offsets, np.argsort(flat, kind="stable")


def _over_images(count: int, fill: Callable[..., None], *arrays: object) -> None:
    """Call `fill(start, stop, *arrays)` for even parts of all images, in as many threads as torch uses."""
    threads = min(torch.get_num_threads(), count)
    bounds = [count * part // threads for part in range(threads + 1)]
    if threads == 1:
        fill(0, count, *arrays)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(fill, *part, *arrays) for part in itertools.pairwise(bounds)]:
            done.result()


@jit
def _fill_anchors(start, stop, o, t, negatives, first, views, settings, x, y, terms):  # pragma: no cover - compiled
    """Fill the terms [A, 2], and x, y [A, n + 1, O, T] with derivatives with respect to the dot products."""
    scale = settings[0] / o.dtype.type(len(negatives) * views[0] * views[1])
    for anchor in range(start, stop):
        i = first + anchor
        for slot in range(x.shape[1]):
            k = negatives[anchor, slot - 1] if slot else i
            _products(o[i], t[k], x[anchor, slot])  # (1)
            _products(o[k], t[i], y[anchor, slot])  # (2)
        terms[anchor] = 0
        for a in range(views[0]):
            for b in range(views[1]):
                contrastive, invariance = _terms(x[anchor, :, a, b], y[anchor, :, a, b], settings, scale)
                terms[anchor, 0] += contrastive
                terms[anchor, 1] += invariance


@jit
def _products(p, q, products):  # pragma: no cover - compiled
    """Fill [P, Q] with the dot products of the rows of p [P, D] and q [Q, D], whole tiles."""
    zero = products.dtype.type(0)
    for a in range(0, p.shape[0], 2):
        for b in range(0, q.shape[0], 4):
            s0 = s1 = s2 = s3 = r0 = r1 = r2 = r3 = zero
            for d in range(p.shape[1]):
                s, r = p[a, d], p[a + 1, d]
                q0, q1, q2, q3 = q[b, d], q[b + 1, d], q[b + 2, d], q[b + 3, d]
                s0, s1, s2, s3 = s0 + s * q0, s1 + s * q1, s2 + s * q2, s3 + s * q3
                r0, r1, r2, r3 = r0 + r * q0, r1 + r * q1, r2 + r * q2, r3 + r * q3
            products[a, b], products[a, b + 1], products[a, b + 2], products[a, b + 3] = s0, s1, s2, s3
            products[a + 1, b], products[a + 1, b + 1], products[a + 1, b + 2], products[a + 1, b + 3] = r0, r1, r2, r3


@jit
def _terms(x, y, settings, scale):  # pragma: no cover - compiled
    """Return (3) and (4) of one anchor and view pair; dot products x, y become the derivatives with respect to them."""
    inverse_temperature, contrastive_weight, invariance_weight = settings[0], settings[1], settings[2]
    log_p_sum, log_q_sum = _logits(x, inverse_temperature), _logits(y, inverse_temperature)
    contrastive = log_p_sum - x[0]
    entropy = cross_entropy = x.dtype.type(0)
    for slot in range(len(x)):
        log_p = x[slot] - log_p_sum
        p = math.exp(log_p)
        entropy -= p * log_p
        cross_entropy += p * (log_q_sum - y[slot])
        x[slot] = p
    for slot in range(len(x)):
        p, log_q = x[slot], y[slot] - log_q_sum
        x[slot] = scale * p * (contrastive_weight - invariance_weight * (log_q + cross_entropy))
        y[slot] = scale * invariance_weight * (math.exp(log_q) - p)
    x[0] -= scale * contrastive_weight
    return contrastive, cross_entropy - entropy


@jit
def _logits(products, inverse_temperature):  # pragma: no cover - compiled
    """Scale in place, and return the logarithm of the sum of exponentials."""
    largest = products[0] * inverse_temperature
    for slot in range(len(products)):
        products[slot] *= inverse_temperature
        largest = max(largest, products[slot])
    total = products.dtype.type(0)
    for slot in range(len(products)):
        total += math.exp(products[slot] - largest)
    return largest + math.log(total)


@jit
def _fill_gradient(
    start, stop, o, t, norms, negatives, first, offsets, entries, x, y, gradient
):  # pragma: no cover - compiled
    """Fill the gradient [O, B, D] of images: as anchors, as candidates of others, then through the normalisation."""
    num_negatives = negatives.shape[1]
    unit_gradient = np.empty(o.shape[1:], o.dtype)
    for k in range(start, stop):
        unit_gradient[:] = 0
        if first <= k < first + len(negatives):
            _accumulate(x[k - first, 0] + y[k - first, 0], t[k], unit_gradient)
            for slot in range(num_negatives):
                _accumulate(x[k - first, slot + 1], t[negatives[k - first, slot]], unit_gradient)
        for entry in entries[offsets[k] : offsets[k + 1]]:
            anchor, slot = entry // num_negatives, entry % num_negatives
            _accumulate(y[anchor, slot + 1], t[first + anchor], unit_gradient)
        for a in range(norms.shape[1]):
            radial = o.dtype.type(0)
            if norms[k, a] > NORM_FLOOR:  # below it the floor divides, which does not depend on the outputs
                for d in range(o.shape[2]):
                    radial += unit_gradient[a, d] * o[k, a, d]
            for d in range(o.shape[2]):
                gradient[a, k, d] = (unit_gradient[a, d] - radial * o[k, a, d]) / norms[k, a]


@jit
def _accumulate(factors, q, total):  # pragma: no cover - compiled
    """Add factors [P, Q] times q [Q, D] to a total [P, D], whole tiles."""
    for a in range(0, factors.shape[0], 2):
        for b in range(0, factors.shape[1], 4):
            s0, s1, s2, s3 = factors[a, b], factors[a, b + 1], factors[a, b + 2], factors[a, b + 3]
            r0, r1, r2, r3 = factors[a + 1, b], factors[a + 1, b + 1], factors[a + 1, b + 2], factors[a + 1, b + 3]
            for d in range(q.shape[1]):
                q0, q1, q2, q3 = q[b, d], q[b + 1, d], q[b + 2, d], q[b + 3, d]
                total[a, d] += s0 * q0 + s1 * q1 + s2 * q2 + s3 * q3
                total[a + 1, d] += r0 * q0 + r1 * q1 + r2 * q2 + r3 * q3
