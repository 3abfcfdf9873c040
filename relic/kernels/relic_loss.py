"""The loss with a few negatives per image, for CUDA: only the dot products that it needs, values and gradient at once.

Per anchor, with 6 online and 4 target views of 256 numbers in bfloat16 and 10 negatives: 0.53 MFLOP in float32 without
tensor cores; 20 kB from and to memory (outputs 5, logits and their derivatives 8, gradient 6), 160 kB from the second
level cache, where every image is read as the candidate of about ten others. On an H100 (67 TFLOP/s, 3.35 TB/s, and
about 5.5 TB/s from the cache) that is 8, 6 and 29 ns: the cache bounds it, at 0.12 ms for 4,096 anchors, where a step
takes most of a second. Hence no tensor cores and no copies of gathered rows.

The gradient. Let x_k, y_k be the logits of eq. 1 and 2 in `relic.losses.relic`, for one anchor i and pair (a, b), and
u_k = -log q_k. With c and v the weights of eq. 3 and 4, and 1[k = i] true for the first candidate,

    d contrastive / d x_k = p_k - 1[k = i]                    from -x_i + log sum exp x
    d invariance / d x_k = p_k (u_k - sum_l p_l u_l)          from sum p u, as sum p log p is stopped
    d invariance / d y_k = q_k - p_k                          from sum p (-y_k + log sum exp y)

    X_k = (c (p_k - 1[k = i]) + v p_k (u_k - sum p u)) / (temperature A O T)
    Y_k = v (q_k - p_k) / (temperature A O T)

are then the derivatives with respect to <o_i, t_k> and <t_i, o_k>. The unit vector o_k takes, over all target views b,

    g = sum over its own candidates l of X_l t_l  +  sum over anchors i that name k of Y_k t_i

(an anchor names itself), and through o = z / max(|z|, floor), the raw output z takes (g - <g, o> o) / |z|, or g / floor
below the floor. The second sum goes over lists of who names whom: no two programs write to one place, and the order is
fixed, so that the same inputs give the same bits.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from pipelines.kernels.optional import jit, tl


def loss_and_gradient(
    online: Tensor,
    target: Tensor,
    negatives: Tensor,
    first_anchor: int,
    *,
    temperature: float,
    contrastive_weight: float,
    invariance_weight: float,
    norm_floor: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Compute the means of both terms, and the gradient of their weighted sum; never waits for the device.

    Args:
        online: raw outputs [O, B, D], float32, bfloat16 or float16.
        target: raw outputs [T, B, D].
        negatives: int64 [A, n], of the images from `first_anchor` on; their range is not checked.
        first_anchor: first image whose loss is computed.
        temperature: softmax temperature.
        contrastive_weight: weight of eq. 3.
        invariance_weight: weight of eq. 4.
        norm_floor: what shorter outputs are divided by.
        with_gradient: whether the gradient is wanted.

    Returns:
        (contrastive, invariance) [2] float32, and the gradient [O, B, D] float32 or None.
    """
    online, target, negatives = online.contiguous(), target.contiguous(), negatives.contiguous()
    (num_online, num_images, features), num_target = online.shape, len(target)
    num_anchors, num_negatives = negatives.shape
    norms = [torch.linalg.vector_norm(outputs, dim=-1, dtype=torch.float32) for outputs in (online, target)]
    sizes = {"ONLINE": num_online, "TARGET": num_target, "FEATURES": features}
    tiles, num_warps = view_tile(num_online, features)
    view_tiles = -(-num_online // tiles["BLOCK_ONLINE"])
    shape = (num_anchors, num_negatives + 1, num_target, num_online)
    x, y, x_gradient, y_gradient = online.new_empty((4, *shape), dtype=torch.float32).unbind()
    terms = online.new_empty((num_anchors, 2), dtype=torch.float32)
    scale = 1 / (num_anchors * num_online * num_target)
    with torch.cuda.device(online.device) if online.is_cuda else nullcontext():  # not for Triton's interpreter
        logits_kernel[(num_anchors, num_negatives + 1, view_tiles)](
            online, target, *norms, negatives, x, y, num_images, first_anchor, num_negatives, 1 / temperature,
            norm_floor, **sizes, **tiles, num_warps=num_warps,
        )  # fmt: skip
        terms_kernel[(num_anchors,)](
            x, y, x_gradient, y_gradient, terms, num_negatives + 1, scale / temperature,
            contrastive_weight, invariance_weight,
            PAIRS=num_online * num_target, **pair_tiles(num_online * num_target, num_negatives + 1),
        )  # fmt: skip
        means = terms.sum(0) * scale
        if not with_gradient:
            return means, None
        offsets, entries = named_by(negatives, num_images)
        gradient = torch.empty_like(online, dtype=torch.float32)
        gradient_kernel[(num_images, view_tiles)](
            online, target, *norms, negatives, offsets, entries, x_gradient, y_gradient, gradient,
            num_images, first_anchor, num_anchors, num_negatives, norm_floor, **sizes, **tiles, num_warps=num_warps,
        )  # fmt: skip
    return means, gradient


def view_tile(num_online: int, features: int) -> tuple[dict[str, int], int]:
    """Return the tile of an image's online outputs, 8,192 numbers or one view, and its warps: 16 numbers per thread."""
    numbers = power_of_2(features)
    views = min(power_of_2(num_online), max(8192 // numbers, 1))
    return {"BLOCK_ONLINE": views, "BLOCK_FEATURES": numbers}, min(max(views * numbers // 512, 1), 32)


def power_of_2(least: int) -> int:
    """Return the smallest power of 2 that is not below `least`, as Triton's tiles must be."""
    return 1 << (least - 1).bit_length()


def pair_tiles(num_pairs: int, num_candidates: int) -> dict[str, int]:
    """Return the tile of an anchor's logits: all pairs, and tens of candidates."""
    pairs = power_of_2(num_pairs)
    return {"BLOCK_PAIRS": pairs, "BLOCK_CANDIDATES": min(power_of_2(num_candidates), max(2048 // pairs, 1))}


def named_by(negatives: Tensor, num_images: int) -> tuple[Tensor, Tensor]:
    """Return who names image k among its negatives: entries[offsets[k] : offsets[k + 1]] are anchor · n + slot."""
    named, entries = torch.sort(negatives.flatten(), stable=True)
    return torch.searchsorted(named, torch.arange(num_images + 1, device=negatives.device)), entries


# -- kernels ----------------------------------------------------------------------------------------------------------


@jit
def unit_rows(
    outputs, norms, image, view, num_images, norm_floor,
    VIEWS: tl.constexpr, FEATURES: tl.constexpr, BLOCK_FEATURES: tl.constexpr,
):  # fmt: skip
    """Return the unit vectors of an image in some views in float32, zeros outside."""
    number = tl.arange(0, BLOCK_FEATURES)
    row = view.to(tl.int64) * num_images + image
    norm = tl.load(norms + row, mask=view < VIEWS, other=1.0)
    mask = (view < VIEWS)[:, None] & (number < FEATURES)[None, :]
    values = tl.load(outputs + row[:, None] * FEATURES + number[None, :], mask=mask, other=0.0)
    return values.to(tl.float32) / tl.maximum(norm, norm_floor)[:, None]


@jit
def unit_row(outputs, norms, row, norm_floor, FEATURES: tl.constexpr, BLOCK_FEATURES: tl.constexpr):
    """Return one unit vector in float32, zeros outside."""
    number = tl.arange(0, BLOCK_FEATURES)
    values = tl.load(outputs + row * FEATURES + number, mask=number < FEATURES, other=0.0)
    return values.to(tl.float32) / tl.maximum(tl.load(norms + row), norm_floor)


@jit
def logits_kernel(
    online,  # [O, B, D]
    target,  # [T, B, D]
    online_norms,  # [O, B] float32
    target_norms,  # [T, B] float32
    negatives,  # [A, n] int64
    x,  # [A, n + 1, T, O] float32, written
    y,  # [A, n + 1, T, O] float32, written
    num_images,
    first_anchor,
    num_negatives,
    inverse_temperature,
    norm_floor,
    ONLINE: tl.constexpr,
    TARGET: tl.constexpr,
    FEATURES: tl.constexpr,
    BLOCK_ONLINE: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
):
    """Write the logits of an anchor and one of its candidates, of some online views with all target views."""
    anchor, candidate = tl.program_id(0).to(tl.int64), tl.program_id(1)
    a = tl.program_id(2) * BLOCK_ONLINE + tl.arange(0, BLOCK_ONLINE)
    i = first_anchor + anchor
    k = i
    if candidate > 0:
        k = tl.load(negatives + anchor * num_negatives + candidate - 1)
    o_i = unit_rows(online, online_norms, i, a, num_images, norm_floor, ONLINE, FEATURES, BLOCK_FEATURES)
    o_k = unit_rows(online, online_norms, k, a, num_images, norm_floor, ONLINE, FEATURES, BLOCK_FEATURES)
    for b in range(TARGET):
        first_row = tl.cast(b, tl.int64) * num_images
        t_i = unit_row(target, target_norms, first_row + i, norm_floor, FEATURES, BLOCK_FEATURES)
        t_k = unit_row(target, target_norms, first_row + k, norm_floor, FEATURES, BLOCK_FEATURES)
        place = ((anchor * (num_negatives + 1) + candidate) * TARGET + b) * ONLINE + a
        tl.store(x + place, inverse_temperature * tl.sum(o_i * t_k[None, :], 1), mask=a < ONLINE)  # (1)
        tl.store(y + place, inverse_temperature * tl.sum(o_k * t_i[None, :], 1), mask=a < ONLINE)  # (2)


@jit
def block_of(
    anchor, start, num_candidates, PAIRS: tl.constexpr, BLOCK_PAIRS: tl.constexpr, BLOCK_CANDIDATES: tl.constexpr
):
    """Return the places [candidates, pairs] of a block of an anchor's logits, and which of them exist.

    The others are loaded as -1e30, whose exponential is 0; infinite, they would make NaN of a column without a logit.
    """
    candidate, pair = start + tl.arange(0, BLOCK_CANDIDATES), tl.arange(0, BLOCK_PAIRS)
    mask = (candidate < num_candidates)[:, None] & (pair < PAIRS)[None, :]
    return (anchor * num_candidates + candidate)[:, None] * PAIRS + pair[None, :], mask


@jit
def with_exponentials(logits, largest, total):
    """Return the largest logit and the sum of exponentials relative to it, with one more block."""
    raised = tl.maximum(largest, tl.max(logits, 0))
    return raised, total * tl.exp(largest - raised) + tl.sum(tl.exp(logits - raised[None, :]), 0)


@jit
def terms_kernel(
    x,  # [A, n + 1, T, O] float32
    y,  # [A, n + 1, T, O] float32
    x_gradient,  # [A, n + 1, T, O] float32, written: X
    y_gradient,  # [A, n + 1, T, O] float32, written: Y
    terms,  # [A, 2] float32, written: sums of eq. 3 and 4 over pairs
    num_candidates,
    scale,  # 1 / (temperature A O T)
    contrastive_weight,
    invariance_weight,
    PAIRS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    BLOCK_CANDIDATES: tl.constexpr,
):
    """Take the softmaxes of an anchor over its candidates, in all pairs of views."""
    anchor = tl.program_id(0).to(tl.int64)
    x_largest, y_largest = tl.full([BLOCK_PAIRS], -1e30, tl.float32), tl.full([BLOCK_PAIRS], -1e30, tl.float32)
    x_total, y_total = tl.zeros([BLOCK_PAIRS], tl.float32), tl.zeros([BLOCK_PAIRS], tl.float32)
    for start in range(0, num_candidates, BLOCK_CANDIDATES):
        places, mask = block_of(anchor, start, num_candidates, PAIRS, BLOCK_PAIRS, BLOCK_CANDIDATES)
        x_largest, x_total = with_exponentials(tl.load(x + places, mask=mask, other=-1e30), x_largest, x_total)
        y_largest, y_total = with_exponentials(tl.load(y + places, mask=mask, other=-1e30), y_largest, y_total)
    log_p_total, log_q_total = x_largest + tl.log(x_total), y_largest + tl.log(y_total)

    negative_entropy, cross_entropy = tl.zeros([BLOCK_PAIRS], tl.float32), tl.zeros([BLOCK_PAIRS], tl.float32)
    for start in range(0, num_candidates, BLOCK_CANDIDATES):
        places, mask = block_of(anchor, start, num_candidates, PAIRS, BLOCK_PAIRS, BLOCK_CANDIDATES)
        log_p = tl.load(x + places, mask=mask, other=-1e30) - log_p_total[None, :]
        log_q = tl.load(y + places, mask=mask, other=-1e30) - log_q_total[None, :]
        p = tl.exp(log_p)
        negative_entropy += tl.sum(p * log_p, 0)
        cross_entropy -= tl.sum(p * log_q, 0)

    for start in range(0, num_candidates, BLOCK_CANDIDATES):
        places, mask = block_of(anchor, start, num_candidates, PAIRS, BLOCK_PAIRS, BLOCK_CANDIDATES)
        p = tl.exp(tl.load(x + places, mask=mask, other=-1e30) - log_p_total[None, :])
        log_q = tl.load(y + places, mask=mask, other=-1e30) - log_q_total[None, :]
        positive = tl.where(start + tl.arange(0, BLOCK_CANDIDATES) == 0, 1.0, 0.0)[:, None]
        to_p = contrastive_weight * (p - positive) - invariance_weight * p * (log_q + cross_entropy[None, :])
        tl.store(x_gradient + places, scale * to_p, mask=mask)
        tl.store(y_gradient + places, scale * invariance_weight * (tl.exp(log_q) - p), mask=mask)

    pair = tl.arange(0, BLOCK_PAIRS)
    x_positive = tl.load(x + anchor * num_candidates * PAIRS + pair, mask=pair < PAIRS, other=0.0)
    tl.store(terms + 2 * anchor, tl.sum(tl.where(pair < PAIRS, log_p_total - x_positive, 0.0)))
    tl.store(terms + 2 * anchor + 1, tl.sum(tl.where(pair < PAIRS, negative_entropy + cross_entropy, 0.0)))


@jit
def gradient_kernel(
    online,  # [O, B, D]
    target,  # [T, B, D]
    online_norms,  # [O, B] float32
    target_norms,  # [T, B] float32
    negatives,  # [A, n] int64
    offsets,  # [B + 1] int64, into entries
    entries,  # [A n] int64, anchor · n + slot
    x_gradient,  # [A, n + 1, T, O] float32
    y_gradient,  # [A, n + 1, T, O] float32
    gradient,  # [O, B, D] float32, written
    num_images,
    first_anchor,
    num_anchors,
    num_negatives,
    norm_floor,
    ONLINE: tl.constexpr,
    TARGET: tl.constexpr,
    FEATURES: tl.constexpr,
    BLOCK_ONLINE: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
):
    """Gather the gradient of an image in some views: as anchor, as candidate, then through the normalisation."""
    k = tl.program_id(0).to(tl.int64)
    a = tl.program_id(1) * BLOCK_ONLINE + tl.arange(0, BLOCK_ONLINE)
    number = tl.arange(0, BLOCK_FEATURES)
    total = tl.zeros([BLOCK_ONLINE, BLOCK_FEATURES], tl.float32)
    own = k - first_anchor
    if (own >= 0) & (own < num_anchors):
        for candidate in range(num_negatives + 1):
            image = k
            if candidate > 0:
                image = tl.load(negatives + own * num_negatives + candidate - 1)
            for b in range(TARGET):
                place = ((own * (num_negatives + 1) + candidate) * TARGET + b) * ONLINE + a
                factor = tl.load(x_gradient + place, mask=a < ONLINE, other=0.0)
                if candidate == 0:
                    factor += tl.load(y_gradient + place, mask=a < ONLINE, other=0.0)
                row = tl.cast(b, tl.int64) * num_images + image
                t = unit_row(target, target_norms, row, norm_floor, FEATURES, BLOCK_FEATURES)
                total += factor[:, None] * t[None, :]
    for place_of_entry in range(tl.load(offsets + k), tl.load(offsets + k + 1)):
        entry = tl.load(entries + place_of_entry)
        anchor = entry // num_negatives
        candidate = entry - anchor * num_negatives + 1
        for b in range(TARGET):
            place = ((anchor * (num_negatives + 1) + candidate) * TARGET + b) * ONLINE + a
            factor = tl.load(y_gradient + place, mask=a < ONLINE, other=0.0)
            row = tl.cast(b, tl.int64) * num_images + first_anchor + anchor
            t = unit_row(target, target_norms, row, norm_floor, FEATURES, BLOCK_FEATURES)
            total += factor[:, None] * t[None, :]
    o = unit_rows(online, online_norms, k, a, num_images, norm_floor, ONLINE, FEATURES, BLOCK_FEATURES)
    row = a.to(tl.int64) * num_images + k
    norm = tl.load(online_norms + row, mask=a < ONLINE, other=1.0)
    radial = tl.where(norm > norm_floor, tl.sum(total * o, 1), 0.0)
    values = (total - radial[:, None] * o) / tl.maximum(norm, norm_floor)[:, None]
    mask = (a < ONLINE)[:, None] & (number < FEATURES)[None, :]
    tl.store(gradient + row[:, None] * FEATURES + number[None, :], values, mask=mask)
