"""The plane that a search values its front in: a cost against a quality."""

from collections.abc import Sequence

import numpy as np

from autotune.spaces.error_scale import ERROR_OBJECTIVES
from autotune.spaces.evaluation import Measurement
from autotune.spaces.objective import OBJECTIVES, objective_value
from autotune.spaces.pareto import front_hypervolume, hypervolume

PLANE_COSTS = ("latency", "macs", "bit-operations")
"""Costs, relative to the default run's, that the plane may have."""

MARGIN = 0.1
"""How far the box of a quality without a scale of its own reaches beyond the worst points, in sides of it."""

Point = tuple[float, float]


class FrontPlane:
    """The first of `PLANE_COSTS` that is an objective, latency if none is, against the first quality.

    That is the error (deviation, failed episodes) if the study has no quality, and less is better in both axes.
    """

    def __init__(self, objectives: Sequence[str]) -> None:
        self.cost = next((name for name in PLANE_COSTS if name in objectives), PLANE_COSTS[0])
        quality = next((name for name in objectives if not OBJECTIVES[name].is_cost), None)
        self._quality = None if quality in ERROR_OBJECTIVES else quality

    @property
    def has_box(self) -> bool:
        """Whether volumes are of the project's box (`autotune.spaces.pareto.BoxVolume`), which is that of errors."""
        return self._quality is None

    def cost_of(self, measurement: Measurement) -> float:
        """The place on the first axis."""
        return OBJECTIVES[self.cost].natural(measurement)

    def point(self, measurement: Measurement) -> Point:
        """The place of a measurement."""
        value = measurement.error if self._quality is None else objective_value(self._quality, measurement)
        return self.cost_of(measurement), value

    def volumes(self, fronts: Sequence[Sequence[Point]]) -> list[float]:
        """What each front dominates of the box, in [0, 1]; of a quality such as a reward, of the box of all points."""
        if self.has_box:
            return [front_hypervolume(*np.array(front).reshape(-1, 2).T) for front in fronts]
        points = np.array([point for front in fronts for point in front]).reshape(-1, 2)
        low, size = points.min(axis=0), np.ptp(points, axis=0)
        corner = 1.0 + MARGIN
        sides = np.where(size > 0.0, size, 1.0)
        return [
            hypervolume((np.array(front).reshape(-1, 2) - low) / sides, (corner,) * 2) / corner**2 for front in fronts
        ]
