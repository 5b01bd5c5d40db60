"""What a worker can be asked to do. A job carries values only: schedules, prompts, seeds."""

from dataclasses import dataclass
from typing import TypeAlias

from autotune.evaluators.evaluator import Evaluator
from autotune.spaces.branch_tables import BranchTables
from autotune.spaces.column_fit import ColumnFit, FitTarget
from autotune.spaces.cost_model import CostModel
from autotune.spaces.edge_costs import EdgeCosts, EdgeSource
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.spaces.segment_costs import SegmentCosts
from autotune.spaces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """Measure a schedule on the prompts of a fidelity, with `repeats` timed runs."""

    schedule: Schedule
    fidelity: Fidelity
    repeats: int = 1

    def run(self, evaluator: Evaluator) -> Measurement | Failure:
        """See `Evaluator.score`."""
        return evaluator.score(self.schedule, self.fidelity, repeats=self.repeats)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """Fit a column of a schedule on the prompts of a fidelity, within `timeout_s` seconds and `max_image_runs` runs.

    A `quick` fit goes a quarter of the way.
    """

    schedule: Schedule
    column: FitTarget
    fidelity: Fidelity
    timeout_s: float | None = None
    max_image_runs: int | None = None
    quick: bool = False

    def run(self, evaluator: Evaluator) -> ColumnFit:
        """See `Evaluator.fit`."""
        return evaluator.fit(
            self.schedule,
            self.column,
            self.fidelity,
            timeout_s=self.timeout_s,
            max_image_runs=self.max_image_runs,
            quick=self.quick,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceJob:
    """Record the converged run of the first `n_prompts` of a fidelity in `n_levels` calls."""

    fidelity: Fidelity
    n_prompts: int
    n_levels: int

    def run(self, evaluator: Evaluator) -> Trace:
        """See `Evaluator.trace`."""
        return evaluator.trace(self.fidelity, self.n_prompts, self.n_levels)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeCostJob:
    """Measure on default runs of the first `n_prompts` of a fidelity what approximating calls would cost."""

    fidelity: Fidelity
    n_prompts: int
    source: EdgeSource = "hybrid"

    def run(self, evaluator: Evaluator) -> EdgeCosts:
        """See `Evaluator.edge_costs`."""
        return evaluator.edge_costs(self.fidelity, self.n_prompts, self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchTablesJob:
    """Record how the outputs of residual branches change over default runs of the first `n_prompts` of a fidelity."""

    fidelity: Fidelity
    n_prompts: int

    def run(self, evaluator: Evaluator) -> BranchTables:
        """See `Evaluator.branch_tables`."""
        return evaluator.branch_tables(self.fidelity, self.n_prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentCostJob:
    """Record on default runs of the first `n_prompts` of a fidelity what reuses at the cache point cost."""

    fidelity: Fidelity
    n_prompts: int

    def run(self, evaluator: Evaluator) -> SegmentCosts:
        """See `Evaluator.segment_costs`."""
        return evaluator.segment_costs(self.fidelity, self.n_prompts)


COST_MODEL_RUNS = 14
"""Default runs that a round of a cost model takes about as long as, of all models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModelJob:
    """Measure on the first batch of a fidelity what schedules cost."""

    fidelity: Fidelity
    rounds: int = 1

    def run(self, evaluator: Evaluator) -> CostModel:
        """See `Evaluator.cost_model`."""
        return evaluator.cost_model(self.fidelity, self.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultTimeJob:
    """Time the default run on the first batch of a fidelity: milliseconds per image."""

    fidelity: Fidelity

    def run(self, evaluator: Evaluator) -> float:
        """See `Evaluator.default_ms`."""
        return evaluator.default_ms(self.fidelity)


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetJob:
    """Draw the images of the prompts of a fidelity that stand at `indices`."""

    schedule: Schedule
    fidelity: Fidelity
    indices: tuple[int, ...]

    def run(self, evaluator: Evaluator) -> bytes:
        """See `Evaluator.contact_sheet`."""
        return evaluator.contact_sheet(self.schedule, self.fidelity, self.indices)


Job: TypeAlias = (
    ScoreJob
    | FitJob
    | TraceJob
    | EdgeCostJob
    | BranchTablesJob
    | SegmentCostJob
    | CostModelJob
    | DefaultTimeJob
    | SheetJob
)
JobValue: TypeAlias = (
    Measurement | Failure | ColumnFit | Trace | EdgeCosts | BranchTables | SegmentCosts | CostModel | float | bytes
)
