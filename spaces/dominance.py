"""Dominance among many points by division: every coordinate counts as better where it is smaller."""

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Mask = NDArray[np.bool_]

FEW_PAIRS = 16_384
"""So many pairs are compared at once."""


def unbeaten_by_earlier(points: Points) -> Mask:
    """Which points have no earlier one that is nowhere larger: bool (n,) of points (n, n_coordinates).

    The algorithm of Kung, Luccio and Preparata (1975), O(n log^d n) for d coordinates: the later half is freed of what
    the earlier half beats. Only halves so small that it does not matter are compared pair by pair.
    """
    n, n_coordinates = points.shape
    if n_coordinates == 1:
        lowest = np.minimum.accumulate(points[:, 0])
        return np.concatenate([np.ones(min(n, 1), bool), points[1:, 0] < lowest[:-1]])
    if n * n <= FEW_PAIRS:
        return np.asarray(~np.triu(_pairs(points, points), k=1).any(axis=0))
    half = n // 2
    kept = np.concatenate([unbeaten_by_earlier(points[:half]), unbeaten_by_earlier(points[half:])])
    later = half + np.flatnonzero(kept[half:])
    kept[later] = _unbeaten(points[later], points[:half][kept[:half]])
    return kept


def _unbeaten(points: Points, others: Points) -> Mask:
    """Which points no other is nowhere larger than: bool (n,) of (n, n_coordinates) and (n_others, n_coordinates)."""
    n_coordinates = points.shape[1]
    if len(points) == 0 or len(others) == 0:
        return np.ones(len(points), bool)
    if n_coordinates == 1:
        return np.asarray(points[:, 0] < others[:, 0].min())
    if len(points) * len(others) <= FEW_PAIRS:
        return np.asarray(~_pairs(others, points).any(axis=0))
    if n_coordinates == 2:
        return _unbeaten_in_plane(points, others)
    # What is above the middle in the last coordinate beats nothing below it, and what is not, needs no look at it.
    last = others[:, -1]
    middle = np.partition(last, len(last) // 2)[len(last) // 2]
    below, above = points[:, -1] < middle, points[:, -1] >= middle
    kept = np.ones(len(points), bool)
    kept[below] = _unbeaten(points[below], others[last < middle])
    kept[above] = _unbeaten(points[above][:, :-1], others[last <= middle][:, :-1])
    left = np.flatnonzero(above & kept)
    kept[left] = _unbeaten(points[left], others[last > middle])
    return kept


def _unbeaten_in_plane(points: Points, others: Points) -> Mask:
    others = others[np.argsort(others[:, 0])]
    lowest = np.minimum.accumulate(others[:, 1])
    n_before = np.searchsorted(others[:, 0], points[:, 0], side="right")
    return np.asarray((n_before == 0) | (points[:, 1] < lowest[np.maximum(n_before, 1) - 1]))


def _pairs(first: Points, second: Points) -> Mask:
    """Where a first point is nowhere larger than a second: bool (n_first, n_second)."""
    return np.asarray(np.logical_and.reduce([a[:, None] <= b for a, b in zip(first.T, second.T, strict=True)]))
