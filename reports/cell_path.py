"""Cells of a table as one drawn shape: an SVG with thousands of rectangles is too large for a page."""

import numpy as np
from matplotlib.path import Path
from numpy.typing import NDArray


def runs(mask: NDArray[np.bool_]) -> Path | None:
    """One path with a rectangle per horizontal run of True cells of a (rows, columns) mask; None if there is none."""
    vertices: list[tuple[float, float]] = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], line.astype(np.int8), [0]))))
        for left, right in edges.reshape(-1, 2).tolist():
            vertices += [(left, row), (right, row), (right, row + 1), (left, row + 1), (left, row)]
    if not vertices:
        return None
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * (len(vertices) // 5)
    return Path(vertices, codes)
