"""The best candidates so far."""

from collections.abc import Sequence

from autotune.search.searcher import Proposal, Result
from autotune.spaces.evaluation import Measurement
from autotune.spaces.objective import OBJECTIVES, Constraint, objective_value, total_violation
from autotune.spaces.pareto import front_hypervolume, non_dominated


class ParetoArchive:
    """Keeps the feasible results that no other dominates; equal ones are kept once, the first."""

    def __init__(self, objectives: Sequence[str], constraints: Sequence[Constraint] = ()) -> None:
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._members: list[tuple[Proposal, Measurement, tuple[float, ...]]] = []

    def add(self, result: Result) -> bool:
        """Take a result in; True if it stands on the front now."""
        measurement = result.measurement
        if measurement is None or total_violation(self._constraints, measurement) > 0.0:
            return False
        values = tuple(objective_value(name, measurement) for name in self._objectives)
        rows = [*self._members, (result.proposal, measurement, values)]
        kept = non_dominated([row[2] for row in rows])
        self._members = [row for row, keep in zip(rows, kept, strict=True) if keep]
        return bool(kept[-1])

    def __len__(self) -> int:
        return len(self._members)

    @property
    def members(self) -> tuple[Proposal, ...]:
        """The front in the order of arrival."""
        return tuple(proposal for proposal, _, _ in self._members)

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The measurements of `members`."""
        return tuple(measurement for _, measurement, _ in self._members)

    @property
    def hypervolume(self) -> float:
        """The project's hypervolume of the front: deviation against relative latency, or MACs where those are set."""
        uses_macs = "macs" in self._objectives and "latency" not in self._objectives
        cost = OBJECTIVES["macs" if uses_macs else "latency"].natural
        return front_hypervolume(
            [cost(measurement) for _, measurement, _ in self._members],
            [measurement.mean("deviation") for _, measurement, _ in self._members],
        )
