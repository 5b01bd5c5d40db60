"""Dominance and hypervolume; every objective is minimised."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.spaces.dominance import unbeaten_by_earlier
from autotune.spaces.staircase import DominatedArea

COST_REFERENCE = 1.0
LOG_ERROR_REFERENCE = 0.0
LOG_ERROR_FLOOR = -3.0
"""The project's hypervolume box: relative cost in [0, 1], log10 of the error in [-3, 0]."""


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates: bool (n,) of points (n, n_objectives).

    A point dominates another if it is nowhere larger and somewhere smaller. Of identical points the first is kept and
    the others are not. A point with a NaN is never kept; an infinite value is a value like any other. The time is
    O(n log n) for two objectives and O(n log^(d - 1) n) for d.
    """
    table = _as_table(points)
    kept = np.zeros(len(table), bool)
    valid = np.flatnonzero(~np.isnan(table).any(axis=1))
    if len(valid) == 0:
        return kept
    # In lexicographic order no point is dominated by a later one, and the first objective needs no comparison any more;
    # the sort is stable, so that of identical points the first comes first.
    order = valid[np.lexsort(table[valid].T[::-1])]
    others = table[order, 1:]
    kept[order] = unbeaten_by_earlier(others) if others.shape[1] else np.arange(len(order)) == 0
    return kept


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume that points (n, n_objectives) dominate up to the reference (n_objectives,); 0 if none is below it.

    Exact for any number of objectives: a sweep of O(n log n) up to three, slices along the last one from four on, of
    O(n^2 log n) for four and n times more for each further one.
    """
    table = _as_table(points)
    corner = np.asarray(reference, np.float64)
    if len(table) and table.shape[1] != len(corner):
        raise ValueError(f"the reference point needs one value per objective, {table.shape[1]}; got {len(corner)}")
    table = table[(table < corner).all(axis=1)] if len(table) else table
    if len(table) == 0:
        return 0.0
    return _volume(table[non_dominated(table)], corner)


class BoxVolume:
    """The fraction of the project's box that a front dominates while it grows.

    The axes are relative cost (latency or MACs over the baseline's) and log10 of the error; the reference point
    is (1.0, 0.0), and the box reaches down to (0.0, -3.0). Points beyond the lower edges count as lying on them, those
    beyond the upper ones, or with a NaN, not at all.
    """

    def __init__(self) -> None:
        self._area = DominatedArea(COST_REFERENCE, LOG_ERROR_REFERENCE)

    def add(self, relative_cost: float, error: float) -> None:
        """Take a point in."""
        self._area.add(max(relative_cost, 0.0), math.log10(max(error, 10.0**LOG_ERROR_FLOOR)))

    @property
    def fraction(self) -> float:
        """In [0, 1]."""
        return self._area.value / (COST_REFERENCE * (LOG_ERROR_REFERENCE - LOG_ERROR_FLOOR))


def front_hypervolume(relative_cost: ArrayLike, error: ArrayLike) -> float:
    """Fraction of the project's box that points dominate, in [0, 1]; see `BoxVolume`. Both arguments: shape (n,)."""
    volume = BoxVolume()
    points = np.stack([np.asarray(relative_cost, np.float64), np.asarray(error, np.float64)], axis=-1)
    for x, y in points.tolist():
        volume.add(x, y)
    return volume.fraction


def _as_table(points: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(points, np.float64)
    if table.size == 0:
        return table.reshape(0, table.shape[-1] if table.ndim == 2 else 0)
    if table.ndim != 2:
        raise ValueError(f"points are a table (n, n_objectives); got {table.ndim} dimensions")
    return table


def _volume(front: NDArray[np.float64], corner: NDArray[np.float64]) -> float:
    """Volume that points below the corner dominate; only from three objectives on may they dominate each other."""
    n_objectives = front.shape[1]
    if n_objectives == 1:
        return float(corner[0] - front[:, 0].min())
    if n_objectives == 2:
        by_first = front[np.argsort(front[:, 0], kind="stable")]
        width = corner[0] - by_first[:, 0]
        top = np.concatenate([corner[1:], by_first[:-1, 1]])
        return float((width * (top - by_first[:, 1])).sum())
    by_last = front[np.argsort(front[:, -1], kind="stable")]
    depth = np.diff(np.append(by_last[:, -1], corner[-1])).tolist()
    if n_objectives == 3:
        area, total = DominatedArea(*corner[:2].tolist()), 0.0
        for (x, y, _), thickness in zip(by_last.tolist(), depth, strict=True):
            area.add(x, y)
            total += thickness * area.value
        return total
    total = 0.0
    for i, thickness in enumerate(depth, start=1):
        if thickness > 0.0:
            total += thickness * _volume(by_last[:i, :-1], corner[:-1])
    return total
