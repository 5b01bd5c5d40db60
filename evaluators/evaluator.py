"""What a search needs of an evaluator."""

from collections.abc import Sequence
from typing import Protocol

from autotune.spaces.branch_tables import BranchTables
from autotune.spaces.column_fit import ColumnFit, FitTarget
from autotune.spaces.condition import Condition
from autotune.spaces.cost_model import CostModel
from autotune.spaces.edge_costs import EdgeCosts, EdgeSource
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule
from autotune.spaces.segment_costs import SegmentCosts
from autotune.spaces.trace import Trace


class Evaluator(Protocol):
    """Scores schedules of one model under one condition.

    `protocol` names the version of the measuring code; it is part of an evaluation's key. `guided` says whether a step
    runs two branches, of which a guidance column may leave one out. Where it `converges`, errors are distances to a run
    that any sampler comes closer to with more steps: there are traces, and columns can be fitted.
    """

    condition: Condition
    inventory: Inventory
    protocol: str
    guided: bool
    converges: bool

    def own_timesteps(self, n_steps: int) -> tuple[float, ...]:
        """The pipeline's own time grid at `n_steps` steps, one entry per network call."""
        ...

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        """Measure a schedule on a fidelity's prompts; `repeats` timed runs, interleaved with the default run.

        Raises:
            EvaluatorError: the evaluator is broken; a candidate that can't be scored is a `Failure` instead.
        """
        ...

    def default_ms(self, fidelity: Fidelity) -> float:
        """Milliseconds that an image of the pipeline's default run takes, in the first batch of a fidelity.

        Raises:
            EvaluatorError: the default run can't be made.
        """
        ...

    def fit(
        self,
        schedule: Schedule,
        column: FitTarget,
        fidelity: Fidelity,
        *,
        timeout_s: float | None = None,
        max_image_runs: int | None = None,
        quick: bool = False,
    ) -> ColumnFit:
        """Fit a column of a schedule by gradient on a fidelity's prompts; the same arguments give the same fit.

        After `timeout_s`, or before it would cost more than `max_image_runs`, it ends with the best so far.

        Raises:
            ScheduleError: the schedule has no solver, or too few steps for the column, or there are too few runs.
            EvaluatorError: the evaluator is broken, or short of memory.
        """
        ...

    def contact_sheet(self, schedule: Schedule, fidelity: Fidelity, indices: Sequence[int]) -> bytes:
        """A PNG with the images of the prompts at `indices` in one row; see `make_contact_sheet`."""
        ...

    def edge_costs(self, fidelity: Fidelity, n_prompts: int, source: EdgeSource = "hybrid") -> EdgeCosts:
        """What approximating calls would cost, measured on default runs of the first prompts of a fidelity.

        Raises:
            UsageError: the fidelity has fewer prompts.
        """
        ...

    def branch_tables(self, fidelity: Fidelity, n_prompts: int) -> BranchTables:
        """How the outputs of residual branches change over default runs of the first prompts of a fidelity.

        Raises:
            UsageError: the fidelity has fewer prompts.
        """
        ...

    def segment_costs(self, fidelity: Fidelity, n_prompts: int) -> SegmentCosts:
        """What reusing the feature at the cache point costs, by default runs of the first prompts of a fidelity.

        Raises:
            UsageError: the fidelity has fewer prompts.
            ScheduleError: the model has no cache point.
        """
        ...

    def cost_model(self, fidelity: Fidelity, rounds: int = 1) -> CostModel:
        """What schedules cost, measured on the first batch of a fidelity, so that it can be told without a run.

        More rounds of runs make it more exact.

        Raises:
            EvaluatorError: the evaluator is broken, or the pipeline fails.
        """
        ...

    def trace(self, fidelity: Fidelity, n_prompts: int, n_levels: int) -> Trace:
        """The states and outputs of the converged run in `n_levels` calls, over the first prompts of a fidelity.

        Raises:
            UsageError: the fidelity has fewer prompts.
        """
        ...
