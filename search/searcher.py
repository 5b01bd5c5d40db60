"""What every searcher takes, proposes and is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self

from autotune.search.hash_index import HashIndex
from autotune.spaces.branch_tables import BranchTables
from autotune.spaces.column_fit import CACHE_CORRECTIONS, ColumnFit, FitTarget
from autotune.spaces.condition import Condition
from autotune.spaces.cost_model import CostModel
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.errors import ScheduleError, UsageError
from autotune.spaces.evaluation import Failure, Measurement
from autotune.spaces.granularity import Granularity
from autotune.spaces.inventory import Inventory
from autotune.spaces.objective import Constraint
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash
from autotune.spaces.segment_costs import SegmentCosts
from autotune.spaces.study_record import Candidate
from autotune.spaces.trace import Trace


def _refuse_fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
    raise UsageError(f"the {column} can't be fitted here: there is no evaluator that does it; choose another family")


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """What a searcher may know of its study.

    `own_timesteps(n)` gives the pipeline's own time grid at n steps, one entry per network call. `fit` fits a column of
    a schedule on the calibration prompts, which takes as long as many evaluations, `quick_fit` a quarter of the way for
    a quarter of the cost. `trace` gives the converged run of a
    few of them, `edge_costs` what a few of them say of approximating calls, `branch_tables` how the outputs of branches
    change in them, `segment_costs` what reusing the feature at the cache point costs there, `cost_model` what schedules
    cost; each is None where nothing makes it. `guided` and `converges` are the evaluator's. `given` are labels and
    schedules that the user wants tried first. `granularity` is that of `ecad`. The budget is left out: a study that is
    resumed with a larger one must take the same course up to there.
    """

    condition: Condition
    inventory: Inventory
    own_timesteps: Callable[[int], tuple[float, ...]]
    objectives: tuple[str, ...] = ("latency", "deviation")
    constraints: tuple[Constraint, ...] = ()
    fit: Callable[[Schedule, FitTarget], ColumnFit] = _refuse_fit
    quick_fit: Callable[[Schedule, FitTarget], ColumnFit] = _refuse_fit
    trace: Callable[[], Trace] | None = None
    edge_costs: Callable[[], EdgeCosts] | None = None
    branch_tables: Callable[[], BranchTables] | None = None
    segment_costs: Callable[[], SegmentCosts] | None = None
    guided: bool = False
    converges: bool = True
    cost_model: Callable[[], CostModel] | None = None
    given: tuple[tuple[str, Schedule], ...] = ()
    granularity: Granularity = Granularity.COMPONENTS

    @cached_property
    def n_calls(self) -> int:
        """Network calls of the pipeline's default run: the rows of a cache plan."""
        return len(self.own_timesteps(self.condition.n_steps))

    def without_cache_corrections(self) -> "SearchContext":
        """One that refuses to fit any correction of a cache."""

        def refuse(fit: Callable[[Schedule, FitTarget], ColumnFit]) -> Callable[[Schedule, FitTarget], ColumnFit]:
            def made(schedule: Schedule, column: FitTarget) -> ColumnFit:
                if column in CACHE_CORRECTIONS:
                    raise ScheduleError("cache corrections are left out of this study; leave --no-correct away")
                return fit(schedule, column)

            return made

        return replace(self, fit=refuse(self.fit), quick_fit=refuse(self.quick_fit))


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A canonical schedule to try; `label` says what it is in a few words."""

    schedule: Schedule
    family: str
    label: str

    @classmethod
    def of(cls, candidate: Candidate) -> Self:
        """The proposal that a recorded candidate was."""
        return cls(schedule=candidate.schedule, family=candidate.family, label=candidate.label)

    @cached_property
    def schedule_hash(self) -> str:
        """SHA-256 of the schedule."""
        return schedule_hash(self.schedule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a proposal."""

    proposal: Proposal
    outcome: Measurement | Failure

    @property
    def measurement(self) -> Measurement | None:
        """The measurement, or None of a failure."""
        return self.outcome if isinstance(self.outcome, Measurement) else None


class Searcher(Protocol):
    """Decides what to try next; knows nothing of execution, clocks or databases.

    The proposals are a function of the context, the seed and the sequence of calls alone.
    """

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` proposals, none proposed before; an empty list means that there is nothing left to try."""
        ...

    def tell(self, results: Sequence[Result]) -> None:
        """Learn from results, of own proposals or of others'."""
        ...


class Novelty:
    """Remembers which schedules were tried, by the hash of their canonical form."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._seen = HashIndex()

    def mark(self, proposal: Proposal) -> None:
        """Remember a proposal."""
        self._seen.add(proposal.schedule_hash)

    def propose(self, schedule: Schedule, *, family: str, label: str) -> Proposal | None:
        """A proposal of the schedule's canonical form; None if it is known or does not fit the model."""
        try:
            canonical = canonical_schedule(schedule, self._inventory)
        except ScheduleError:
            return None
        proposal = Proposal(schedule=canonical, family=family, label=label)
        return None if proposal.schedule_hash in self._seen else proposal

    def admit(self, schedule: Schedule, *, family: str, label: str) -> Proposal | None:
        """`propose`, and remember what is proposed."""
        proposal = self.propose(schedule, family=family, label=label)
        if proposal is not None:
            self.mark(proposal)
        return proposal
