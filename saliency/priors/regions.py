"""Regions in ever coarser layers: watershed basins, merged by their scale (Yan et al., CVPR 2013, section 3.1).

The scale of a region is the side of the largest square that fits into it: it says how coarse a region looks,
which its number of pixels does not (a long thin line has many).
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numba
import numpy as np


class Regions(NamedTuple):
    """One layer: every pixel in a region."""

    labels: np.ndarray
    """int32 [H, W], region of every pixel, 0 to N − 1."""
    sizes: np.ndarray
    """float64 [N], pixels."""
    colours: np.ndarray
    """float64 [N, 3], mean colours."""


def basins(image: np.ndarray, colours: np.ndarray) -> Regions:
    """Split an image into the basins of its gradient: the watershed without lines, by steepest descent.

    Every pixel belongs to the minimum its path of steepest descent ends in ("tobogganing", Fairfield 1990).
    It gives a watershed in one pass; a pixel on a plateau goes with the whole plateau.

    Args:
        image: uint8 RGB [H, W, 3]; the gradient is that of its gray levels.
        colours: float32 [H, W, 3] that `Regions.colours` are means of.
    """
    gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    across = cv2.Sobel(gray, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REPLICATE)
    down = cv2.Sobel(gray, cv2.CV_32F, 0, 1, borderType=cv2.BORDER_REPLICATE)
    labels, number = descended(across * across + down * down)
    sums = summed(colours, labels, number)
    sizes = np.bincount(labels.ravel(), minlength=number).astype(np.float64)
    return Regions(labels, sizes, sums / sizes[:, None])


def merged(regions: Regions, scale: int) -> tuple[Regions, np.ndarray]:
    """Merge every region of a smaller scale with the neighbour whose colour is nearest (algorithms 1 and 2).

    Args:
        scale: of the smallest region to remain, in pixels; if none reaches it, one region remains.

    Returns:
        The coarser layer and, int64 [N], the region of that layer in which each region lies.
    """
    sums = regions.colours * regions.sizes[:, None]
    parent, number = _merged_below(regions.labels, sums, regions.sizes.copy(), scale)
    sizes = np.bincount(parent, regions.sizes, minlength=number)
    colours = [np.bincount(parent, regions.colours[:, channel] * regions.sizes, number) for channel in range(3)]
    return Regions(parent.astype(np.int32)[regions.labels], sizes, np.stack(colours, 1) / sizes[:, None]), parent


@numba.njit(cache=True, nogil=True)
def summed(values: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray:
    """Add up the values in every region: [H, W, C] by int32 [H, W] → float64 [number, C]."""
    height, width, channels = values.shape
    sums = np.zeros((number, channels))
    for y in range(height):
        for x in range(width):
            for channel in range(channels):
                sums[labels[y, x], channel] += values[y, x, channel]
    return sums


@numba.njit(cache=True, nogil=True)
def descended(gradient: np.ndarray) -> tuple[np.ndarray, int]:
    """Label every pixel with the minimum below it: float32 [H, W] → int32 [H, W], the number of minima."""
    height, width = gradient.shape
    root = np.arange(height * width).astype(np.int32)
    for y in range(height):
        for x in range(width):
            here, lowest, below = gradient[y, x], gradient[y, x], -1
            for near_y in range(max(y - 1, 0), min(y + 2, height)):
                for near_x in range(max(x - 1, 0), min(x + 2, width)):
                    if gradient[near_y, near_x] < lowest:
                        lowest, below = gradient[near_y, near_x], near_y * width + near_x
            if below >= 0:
                _unite(root, y * width + x, below)
                continue
            for near_y in range(max(y - 1, 0), min(y + 2, height)):
                for near_x in range(max(x - 1, 0), min(x + 2, width)):
                    if gradient[near_y, near_x] == here:
                        _unite(root, y * width + x, near_y * width + near_x)
    labels = np.full(height * width, -1, np.int32)
    number = 0
    for pixel in range(height * width):
        top = _find(root, pixel)
        if labels[top] < 0:
            labels[top] = number
            number += 1
        labels[pixel] = labels[top]
    return labels.reshape(height, width), number


@numba.njit(cache=True, nogil=True)
def _find(root: np.ndarray, member: int) -> int:
    """Return the representative of a set, and shorten the way to it."""
    while root[member] != member:
        root[member] = root[root[member]]
        member = root[member]
    return member


@numba.njit(cache=True, nogil=True)
def _unite(root: np.ndarray, first: int, second: int) -> None:
    """Join two sets; the smaller number represents both, so a set's first pixel is its root."""
    first, second = _find(root, first), _find(root, second)
    root[max(first, second)] = min(first, second)


@numba.njit(cache=True, nogil=True)
def _scales(labels: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Measure the side of the largest square in every region, kept at its root.

    The largest square that ends at a pixel (its lower right corner) follows from those of its three
    neighbours above and to the left.
    """
    height, width = labels.shape
    scales = np.zeros(len(root), np.int32)
    above, here = np.full(width + 1, -1, np.int32), np.full(width + 1, -1, np.int32)  # [0] lies left of the image
    squares = np.zeros(width + 1, np.int32)
    reach = np.zeros(width + 1, np.int32)
    for y in range(height):
        # three loops a row, so that only the one that must wait for its left neighbour does
        for x in range(width):
            here[x + 1] = root[labels[y, x]]
        for x in range(1, width + 1):
            one_region = (above[x] == here[x]) & (here[x - 1] == here[x]) & (above[x - 1] == here[x])
            reach[x] = min(squares[x], squares[x - 1]) if one_region else 0
        left = np.int32(0)
        for x in range(1, width + 1):
            left = min(reach[x], left) + np.int32(1)
            squares[x] = left
            if left > scales[here[x]]:
                scales[here[x]] = left
        above, here = here, above
    return scales


@numba.njit(cache=True, nogil=True)
def _neighbours(labels: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """List the neighbours of every region, as chains that can be joined when regions are.

    Returns:
        first and last link of every region's chain (−1 for none), the link after each, the region each names.
        A chain may name a region several times.
    """
    height, width = labels.shape
    first, last = np.full(number, -1), np.full(number, -1)
    after, names = np.empty(4 * labels.size, np.int32), np.empty(4 * labels.size, np.int32)
    links = 0
    for y in range(height):
        for x in range(width):
            here = labels[y, x]
            for step in range(2):
                if (step == 0 and x + 1 == width) or (step == 1 and y + 1 == height):
                    continue
                there = labels[y, x + 1] if step == 0 else labels[y + 1, x]
                if here == there or (last[here] >= 0 and names[last[here]] == there):
                    continue
                for region, other in ((here, there), (there, here)):
                    names[links], after[links] = other, -1
                    if last[region] < 0:
                        first[region] = links
                    else:
                        after[last[region]] = links
                    last[region] = links
                    links += 1
    return first, last, after, names


@numba.njit(cache=True, nogil=True)
def _merged_below(labels: np.ndarray, sums: np.ndarray, sizes: np.ndarray, scale: int) -> tuple[np.ndarray, int]:
    """Merge regions until none is smaller than `scale`, those of the smallest scale first.

    A region that grew waits for the next round, in which its scale is measured anew.

    Returns:
        The new region of each old one, 0 to M − 1 in their order, and M. Adds to `sums` and `sizes`.
    """
    number = len(sizes)
    root = np.arange(number)
    first, last, after, names = _neighbours(labels, number)
    grew = np.zeros(number, np.bool_)
    remaining = number
    while remaining > 1:
        for region in range(number):
            root[region] = _find(root, region)
        scales = _scales(labels, root)
        small = np.flatnonzero((scales > 0) & (scales < scale))
        if len(small) == 0:
            break
        grew[:] = False
        for region in small[np.argsort(scales[small], kind="mergesort")]:
            if grew[region]:
                continue
            nearest = _nearest(region, root, first, after, names, sums, sizes)
            root[region] = nearest
            grew[nearest] = True
            sums[nearest] += sums[region]
            sizes[nearest] += sizes[region]
            after[last[nearest]] = first[region]
            last[nearest] = last[region]
            remaining -= 1
            if remaining == 1:
                break
    parent = np.full(number, -1)
    count = 0
    for region in range(number):
        top = _find(root, region)
        if parent[top] < 0:
            parent[top] = count
            count += 1
        parent[region] = parent[top]
    return parent, count


@numba.njit(cache=True, nogil=True)
def _nearest(
    region: int,
    root: np.ndarray,
    first: np.ndarray,
    after: np.ndarray,
    names: np.ndarray,
    sums: np.ndarray,
    sizes: np.ndarray,
) -> int:
    """Return the neighbour of a region whose mean colour is nearest to its own."""
    nearest, least = -1, np.inf
    link = first[region]
    while link >= 0:
        other = _find(root, int(names[link]))
        if other != region:
            distance = 0.0
            for channel in range(3):
                difference = sums[region, channel] / sizes[region] - sums[other, channel] / sizes[other]
                distance += difference * difference
            if distance < least:
                nearest, least = other, distance
        link = after[link]
    return nearest
