"""Results to fit from, and fits that are noted."""

from dataclasses import replace

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.column_fit import ColumnFit, FitTarget
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))


def result(context: SearchContext, evaluator: TabulatedEvaluator, schedule: Schedule, label: str = "a") -> Result:
    proposal = Proposal(schedule=schedule, family="fewer-steps", label=label)
    return Result(proposal=proposal, outcome=evaluator.score(schedule, FIDELITY))


def with_error(told: Result, error: float) -> Result:
    measurement = told.measurement
    assert measurement is not None
    deviation = (error,) * measurement.n_prompts
    return replace(told, outcome=replace(measurement, quality={**measurement.quality, "deviation": deviation}))


def solver(context: SearchContext, n: int) -> Schedule:
    time = context.own_timesteps(n)
    return Schedule(n_steps=n, time=time, solver=make_solver("unipc-2", n, context.condition.noise_schedule))


class Fits:
    """The evaluator's fits, noted."""

    def __init__(self, evaluator: TabulatedEvaluator) -> None:
        self._evaluator = evaluator
        self.made: list[tuple[Schedule, FitTarget]] = []

    def __call__(self, schedule: Schedule, column: FitTarget) -> ColumnFit:
        self.made.append((schedule, column))
        return self._evaluator.fit(schedule, column, FIDELITY)
