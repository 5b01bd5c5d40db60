"""A synthetic landscape of solver schedules: the deviation grows smoothly from a known best program."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.s3 import S3Searcher, S3Settings
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.noise_schedule import NoiseSchedule
from autotune.spaces.program_encoding import encode_program
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda
from autotune.spaces.trace import Trace
from autotune.spaces.traced_run import RESPONSES, TRACE_LEVELS, TracedRun

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))
N = 6
GUIDED = S3Settings(step_counts=(N,), fit_every=0)
PLAIN = replace(GUIDED, stage_size=10_000)
"""Evolution alone: the second stage, which has no predictor, never ends."""


def best_schedule(noise: NoiseSchedule, n: int) -> Schedule:
    """Where the landscape has its minimum: a grid and factors that no preset has."""
    times = np.array(uniform_lambda(noise, n, t_end=12.0))
    times[1:] *= 0.88
    solver = tuple(
        replace(step, slope=0.8, curvature=1.3) if isinstance(step, SolverStep) and step.order > 1 else step
        for step in make_solver("unipc-3", n, noise)
    )
    return Schedule(n_steps=n, time=tuple(times.tolist()), solver=solver)


class Landscape(TabulatedEvaluator):
    """Deviation 0.01 at the best program and above it the farther away in its encoding, the more."""

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        measured = super().score(schedule, fidelity, repeats=repeats)
        if schedule.time is None or isinstance(measured, Failure):
            return measured
        return replace(measured, quality={**measured.quality, "deviation": (self.deviation(schedule),) * 2})

    def deviation(self, schedule: Schedule) -> float:
        distance = self._code(schedule) - self._code(best_schedule(self.condition.noise_schedule, schedule.n_steps))
        return 0.01 + 0.2 * float(np.mean(distance**2)) / schedule.n_steps

    def _code(self, schedule: Schedule) -> NDArray[np.float64]:
        noise = self.condition.noise_schedule
        return encode_program(compile_program(schedule, noise, self.condition.prediction), noise)


class Traced(Landscape):
    """The deviation is what a network that responds weakly would have: a trace tells it."""

    n_traces = 0

    def make_trace(self) -> Trace:
        """What S3 asks for."""
        self.n_traces += 1
        return self.trace(FIDELITY, 2, TRACE_LEVELS)

    def deviation(self, schedule: Schedule) -> float:
        condition = self.condition
        program = compile_program(schedule, condition.noise_schedule, condition.prediction)
        return float(np.exp(self._run.log_errors(program)[RESPONSES.index(0.6)]))

    @cached_property
    def _run(self) -> TracedRun:
        return TracedRun(
            self.trace(FIDELITY, 2, TRACE_LEVELS), self.condition.noise_schedule, self.condition.prediction
        )


def context_of(evaluator: TabulatedEvaluator) -> SearchContext:
    return SearchContext(
        condition=evaluator.condition, inventory=evaluator.inventory, own_timesteps=evaluator.own_timesteps
    )


def results_of(proposals: Sequence[Proposal], evaluator: TabulatedEvaluator) -> list[Result]:
    return [Result(proposal=p, outcome=evaluator.score(p.schedule, FIDELITY)) for p in proposals]


def drive(
    seed: int,
    settings: S3Settings,
    n: int = 110,
    evaluator: Landscape | None = None,
    trace: Callable[[], Trace] | None = None,
) -> tuple[S3Searcher, list[float], list[Proposal]]:
    """The searcher after n evaluations on the landscape, their deviations, and the proposals."""
    evaluator = evaluator or Landscape()
    searcher = S3Searcher(replace(context_of(evaluator), trace=trace), seed, settings)
    scores: list[float] = []
    proposals: list[Proposal] = []
    while len(scores) < n and (asked := searcher.ask(1)):
        proposals += asked
        searcher.tell(results_of(asked, evaluator))
        scores += [evaluator.deviation(p.schedule) for p in asked]
    return searcher, scores, proposals
