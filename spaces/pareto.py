"""Dominance and hypervolume; every objective is minimised."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

COST_REFERENCE = 1.0
LOG_DEVIATION_REFERENCE = 0.0
LOG_DEVIATION_FLOOR = -3.0
"""The project's hypervolume box: relative cost in [0, 1], log10 of the deviation in [-3, 0]."""


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates: bool (n,) of points (n, n_objectives).

    A point dominates another if it is nowhere larger and somewhere smaller. Of identical points the first is kept and
    the others are not. A point with a NaN is never kept; an infinite value is a value like any other.
    """
    table = _as_table(points)
    kept = np.zeros(len(table), bool)
    valid = np.flatnonzero(~np.isnan(table).any(axis=1))
    if len(valid) == 0:
        return kept
    # In lexicographic order no point is dominated by a later one.
    unique, first = np.unique(table[valid], axis=0, return_index=True)
    front = np.empty_like(unique)
    size = 0
    for row, index in zip(unique, first, strict=True):
        if not (front[:size] <= row).all(axis=1).any():
            front[size] = row
            size += 1
            kept[valid[index]] = True
    return kept


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume that points (n, n_objectives) dominate up to the reference (n_objectives,); 0 if none is below it.

    Exact for any number of objectives, by slicing along the last one; meant for two or three.
    """
    table = _as_table(points)
    corner = np.asarray(reference, np.float64)
    if len(table) and table.shape[1] != len(corner):
        raise ValueError(f"the reference point needs one value per objective, {table.shape[1]}; got {len(corner)}")
    table = table[(table < corner).all(axis=1)] if len(table) else table
    if len(table) == 0:
        return 0.0
    return _volume(table[non_dominated(table)], corner)


def front_hypervolume(relative_cost: ArrayLike, deviation: ArrayLike) -> float:
    """Fraction of the project's box that a front dominates, in [0, 1].

    The axes are relative cost (latency or MACs over the baseline's) and log10 of the deviation; the reference point
    is (1.0, 0.0), and the box reaches down to (0.0, -3.0). Points beyond the lower edges count as lying on them.
    """
    cost = np.maximum(np.asarray(relative_cost, np.float64), 0.0)
    floor = 10.0**LOG_DEVIATION_FLOOR
    log_deviation = np.log10(np.maximum(np.asarray(deviation, np.float64), floor))
    reference = (COST_REFERENCE, LOG_DEVIATION_REFERENCE)
    area = COST_REFERENCE * (LOG_DEVIATION_REFERENCE - LOG_DEVIATION_FLOOR)
    return hypervolume(np.stack([cost, log_deviation], axis=-1), reference) / area


def _as_table(points: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(points, np.float64)
    if table.size == 0:
        return table.reshape(0, table.shape[-1] if table.ndim == 2 else 0)
    if table.ndim != 2:
        raise ValueError(f"points are a table (n, n_objectives); got {table.ndim} dimensions")
    return table


def _volume(front: NDArray[np.float64], corner: NDArray[np.float64]) -> float:
    n_objectives = front.shape[1]
    if n_objectives == 1:
        return float(corner[0] - front[:, 0].min())
    if n_objectives == 2:
        by_first = front[np.argsort(front[:, 0], kind="stable")]
        width = corner[0] - by_first[:, 0]
        top = np.concatenate([corner[1:], by_first[:-1, 1]])
        return float((width * np.maximum(top - by_first[:, 1], 0.0)).sum())
    by_last = front[np.argsort(front[:, -1], kind="stable")]
    depth = np.diff(np.append(by_last[:, -1], corner[-1]))
    total = 0.0
    for i, thickness in enumerate(depth):
        if thickness > 0.0:
            slab = by_last[: i + 1, :-1]
            total += float(thickness) * _volume(slab[non_dominated(slab)], corner[:-1])
    return total
