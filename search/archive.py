"""The best candidates so far."""

from collections.abc import Sequence

from autotune.search.searcher import Proposal, Result
from autotune.spaces.bucketed_front import BucketedFront
from autotune.spaces.error_scale import ERROR_OBJECTIVES
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front_plane import FrontPlane
from autotune.spaces.objective import Constraint, objective_value, total_violation
from autotune.spaces.pareto import BoxVolume
from autotune.spaces.staircase import Staircase


class ParetoArchive:
    """Keeps the feasible results that no other dominates; equal ones are kept once, the first.

    Nothing stays of a result that is dominated. On a front of n members, taking one in costs O(log n) comparisons for
    two objectives, and some more for other numbers of them.
    """

    def __init__(self, objectives: Sequence[str], constraints: Sequence[Constraint] = ()) -> None:
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._front = _PlaneFront() if len(self._objectives) == 2 else BucketedFront(len(self._objectives))
        self._members: dict[int, tuple[Proposal, Measurement]] = {}  # by number of arrival
        self._n_arrived = 0
        self._plane = FrontPlane(self._objectives)
        self._volume: BoxVolume | None = None

    def add(self, result: Result) -> bool:
        """Take a result in; True if it stands on the front now."""
        measurement = result.measurement
        if measurement is None or total_violation(self._constraints, measurement) > 0.0:
            return False
        values = [objective_value(name, measurement) for name in self._objectives]
        removed = self._front.add(self._n_arrived, values)
        if removed is None:
            return False
        for number in removed:
            del self._members[number]
        self._members[self._n_arrived] = result.proposal, measurement
        self._n_arrived += 1
        is_plane = self._plane.cost in self._objectives and not set(ERROR_OBJECTIVES).isdisjoint(self._objectives)
        if is_plane and self._volume is not None:
            # Where both axes are objectives, the new member dominates in them what the removed ones did.
            self._count(self._volume, measurement)
        else:
            self._volume = None
        return True

    def __len__(self) -> int:
        return len(self._members)

    @property
    def members(self) -> tuple[Proposal, ...]:
        """The front in the order of arrival."""
        return tuple(proposal for proposal, _ in self._members.values())

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The measurements of `members`."""
        return tuple(measurement for _, measurement in self._members.values())

    @property
    def hypervolume(self) -> float:
        """The project's hypervolume of the front: its errors against the cost of `FrontPlane`."""
        if self._volume is None:
            self._volume = BoxVolume()
            for _, measurement in self._members.values():
                self._count(self._volume, measurement)
        return self._volume.fraction

    def gain(self, result: Result) -> float:
        """Take a result in; how much more of its plane the front dominates then, see `FrontPlane`."""
        if self._plane.has_box:
            before = self.hypervolume
            self.add(result)
            return self.hypervolume - before
        points = self._points
        if not self.add(result):
            return 0.0
        before, after = self._plane.volumes([points, self._points])
        return after - before

    @property
    def _points(self) -> list[tuple[float, float]]:
        return [self._plane.point(measurement) for measurement in self.measurements]

    def cost_of(self, measurement: Measurement) -> float:
        """The cost of `FrontPlane`."""
        return self._plane.cost_of(measurement)

    def _count(self, volume: BoxVolume, measurement: Measurement) -> None:
        volume.add(self.cost_of(measurement), measurement.error)


class _PlaneFront:
    """A `Staircase` with a tag per point, in the form of `BucketedFront`."""

    def __init__(self) -> None:
        self._points = Staircase()
        self._tags: dict[float, int] = {}

    def add(self, tag: int, values: Sequence[float]) -> list[int] | None:
        """Take a point in; the tags of those that it drives out, None if it is not taken."""
        x, y = values
        removed = self._points.add(x, y)
        if removed is None:
            return None
        tags = [self._tags.pop(old) for old in removed]
        self._tags[x] = tag
        return tags
