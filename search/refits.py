"""Fits of schedules on the front or near it: of solvers by gradient, under their caches and branches, and of caches."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotune.search.archive import ParetoArchive
from autotune.search.fit_experience import PRIORS, Experience, Kind, between
from autotune.search.searcher import Novelty, Proposal, Result, SearchContext
from autotune.search.solver_variation import SolverVariation
from autotune.search.table_variation import MIN_STEPS, TableVariation
from autotune.spaces.carried_fit import carry_fit
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Measurement
from autotune.spaces.objective import total_violation
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash

STRIDE = 8
"""Fits are carried by one step, from twice this number of steps on by two, and so on."""


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A schedule with fitted times and factors; `root` is without their moves, and `label` is its."""

    root: Schedule
    schedule: Schedule
    label: str


@dataclass(frozen=True, slots=True)
class _Carry:
    """A fit, to be carried to `n_steps` steps; and to `stride` more if what it comes to there stands on the front."""

    fit: _Fitted
    n_steps: int
    stride: int


@dataclass(frozen=True, slots=True)
class _Chance:
    """A schedule whose column may be fitted, and the hypervolume to gain per evaluation's cost."""

    schedule: Schedule
    kind: Kind
    error: float
    label: str
    gain: float


class Refits:
    """Quick fits of times and factors of good schedules, of their coefficients, and of corrections of their caches.

    Good are the members of the front, and of each number of steps what comes closest to the converged run: a plain
    solver that the front has passed by may pass it again once fitted.

    Coefficients come last (`FitColumn.CORRECTION`), since they belong to fixed times and formulas. A fit of times and
    factors that comes to stand on the front is carried to neighbouring numbers of steps (`carry_fit`), on and on as
    long as what it comes to does so too, at an evaluation each; later fits go on from there. The next fit is the one
    that promises most hypervolume for what it costs, were the error to fall as in those of its kind before with about
    as many steps, and as far as fits at fewer and at more steps let expect. Members that leave the solver to the
    pipeline have only their caches corrected, which comes last, as a table fits one solver.
    """

    family = "refits"

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        self._context = context
        self._novelty = Novelty(context.inventory)
        self._archive = ParetoArchive(context.objectives, context.constraints)
        self._closest: dict[int, tuple[Proposal, Measurement]] = {}
        """Of feasible schedules with a solver, by their number of steps, if measured on all prompts."""
        self._solvers = SolverVariation(
            context.condition.noise_schedule, context.condition.start_timestep, guided=context.guided
        )
        self._tables = TableVariation(context)
        self._known = {kind: Experience(ratio, runs) for kind, (ratio, runs) in PRIORS.items()}
        self._rng = np.random.default_rng(seed)
        self._done: dict[str, set[Kind]] = {}
        """The kinds of fits that were made of a schedule, by its hash."""
        self._asked: dict[str, _Chance] = {}
        self._fits: dict[str, _Fitted] = {}
        """Of fitted and carried schedules, by their hashes."""
        self._onward: dict[str, list[_Carry]] = {}
        """Where to carry the fit of a schedule if that stands on the front."""
        self._carries: deque[_Carry] = deque()
        self._n_results = self._n_calls = 0
        self._chance: _Chance | None = None
        self._is_stale = True

    @property
    def expected_gain(self) -> float:
        """Hypervolume per evaluation's cost that the next fit is expected to bring; 0 if there is none to make.

        Infinite where one waits to be carried: that costs an evaluation only.
        """
        if self._carries:
            return math.inf
        if self._is_stale:
            self._chance, self._is_stale = max(self._chances(), key=lambda c: c.gain, default=None), False
        return 0.0 if self._chance is None else self._chance.gain

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` schedules; asking takes as long as the fits."""
        proposals: list[Proposal] = []
        while len(proposals) < n and self.expected_gain > 0.0:
            proposal = self._carried(self._carries.popleft()) if self._carries else self._fit()
            if proposal is not None:
                proposals.append(proposal)
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Take results in, whoever asked for them."""
        for result in results:
            self._novelty.mark(result.proposal)
            is_on_front = self._archive.add(result)
            self._is_stale |= is_on_front
            onward = self._onward.pop(result.proposal.schedule_hash, [])
            self._carries.extend(onward if is_on_front else [])
            measurement, schedule = result.measurement, result.proposal.schedule
            chance = self._asked.pop(result.proposal.schedule_hash, None)
            if measurement is None:
                continue
            self._note_closest(result.proposal, measurement)
            self._n_results += 1
            self._n_calls += measurement.n_prompts * measurement.network_calls
            if chance is not None:
                known = self._known[chance.kind]
                known.fits.append((math.log(schedule.n_steps), math.log(max(measurement.error, 1e-12) / chance.error)))

    def _note_closest(self, proposal: Proposal, measurement: Measurement) -> None:
        if proposal.schedule.time is None or total_violation(self._context.constraints, measurement) > 0.0:
            return
        n_steps = proposal.schedule.n_steps
        _, known = self._closest.get(n_steps, (None, None))
        if known is None or (-measurement.n_prompts, measurement.error) < (-known.n_prompts, known.error):
            self._closest[n_steps] = proposal, measurement
            self._is_stale = True

    def _fit(self) -> Proposal | None:
        """The fit that promises most."""
        chance = self._chance
        assert chance is not None
        before, column = schedule_hash(chance.schedule), chance.kind.column
        self._done.setdefault(before, set()).add(chance.kind)
        self._is_stale = True
        of_solver, start = column is FitColumn.SOLVER, chance.schedule
        if chance.kind.analytic:
            start = self._solvers.toggle_start(start, self._rng)
        if of_solver:
            start = self._solvers.enriched(start)
        try:
            fit = self._context.quick_fit(start, column)
            made = canonical_schedule(fit.schedule, self._context.inventory)
        except ScheduleError:  # it can't be fitted, or no runs are left
            return None
        known = self._known[chance.kind]
        known.n += 1
        known.runs += (fit.image_runs - known.runs) / known.n
        proposal = self._novelty.admit(made, family=self.family, label=_label(chance.kind, chance))
        if proposal is None:  # it came to nothing
            known.fits.append((math.log(start.n_steps), 0.0))
            return None
        self._asked[proposal.schedule_hash] = chance
        if of_solver:
            earlier = None if chance.kind.analytic else self._fits.get(before)
            root, label = (start, chance.label) if earlier is None else (earlier.root, earlier.label)
            stride = max(1, start.n_steps // STRIDE)
            self._note(proposal, _Fitted(root, fit.schedule, label), (-stride, stride))
        return proposal

    def _carried(self, carry: _Carry) -> Proposal | None:
        """The schedule that a fit leads to at another number of steps; None where there is no such or it is known."""
        fit, n_steps, noise = carry.fit, carry.n_steps, self._context.condition.noise_schedule
        if not MIN_STEPS <= n_steps < self._context.condition.n_steps:
            return None
        try:
            root = self._solvers.enriched(self._tables.retimed(fit.root, n_steps))
            made = carry_fit(fit.root, fit.schedule, root, noise)
        except ScheduleError:
            return None
        label = f"{fit.label}, fit carried to {n_steps} steps"
        proposal = self._novelty.admit(made, family=self.family, label=label)
        if proposal is not None:
            self._note(proposal, _Fitted(root, made, fit.label), (carry.stride,), fit)
        return proposal

    def _note(self, proposal: Proposal, own: _Fitted, strides: Sequence[int], fit: _Fitted | None = None) -> None:
        """Remember what a proposal has of fits, and that `fit`, by default its own, may be carried on from there."""
        self._fits[proposal.schedule_hash] = own
        n_steps = own.schedule.n_steps
        self._onward[proposal.schedule_hash] = [_Carry(fit or own, n_steps + stride, stride) for stride in strides]

    def _chances(self) -> list[_Chance]:
        """All that may be fitted."""
        members = list(zip(self._archive.members, self._archive.measurements, strict=True))
        costs = [self._archive.cost_of(m) for _, m in members]
        errors = [m.error for _, m in members]
        before = front_hypervolume(costs, errors)
        n_prompts = max((m.n_prompts for _, m in self._closest.values()), default=0)
        closest = {n: pair for n, pair in self._closest.items() if pair[1].n_prompts == n_prompts}
        fitted = {n: m.error for n, (p, m) in closest.items() if p.schedule_hash in self._fits}
        # On a ladder most evaluations end after a few prompts.
        calls_per_evaluation = self._n_calls / max(self._n_results, 1)
        chances = []
        for proposal, measurement in {p.schedule_hash: (p, m) for p, m in [*members, *closest.values()]}.values():
            schedule, cost, error = proposal.schedule, self._archive.cost_of(measurement), measurement.error
            if schedule.policy is not None or schedule.tables or error <= 0.0:  # tables fit one solver
                continue
            is_whole = schedule.cache is None and schedule.guidance is None  # as those are that lie on the line
            likely = between(fitted, schedule.n_steps) if is_whole else error
            done = self._done.get(proposal.schedule_hash, ())
            kinds = [k for k in _kinds(schedule, proposal.schedule_hash in self._fits) if k not in done]
            for kind in kinds:
                if kind.column is FitColumn.CACHE_CORRECTION and len(kinds) > 1:  # it comes last: it fits one solver
                    continue
                known = self._known[kind]
                left = known.ratio(schedule.n_steps, likely / error)
                after = front_hypervolume([*costs, cost], [*errors, error * left])
                price = 1.0 + known.runs * schedule.n_steps / calls_per_evaluation
                chances.append(_Chance(schedule, kind, error, proposal.label, (after - before) / price))
        return chances


def _kinds(schedule: Schedule, is_fitted: bool) -> tuple[Kind, ...]:
    """What may be fitted of a schedule: nothing that its correction stands on, if it has one."""
    correction = Kind(FitColumn.CORRECTION)
    correctable = schedule.cache is not None and schedule.unconditional_cache is None
    of_cache = (Kind(FitColumn.CACHE_CORRECTION),) if correctable else ()
    if schedule.time is None:
        return of_cache
    if schedule.correction is not None:
        return replace(correction, again=True), *of_cache
    if is_fitted:
        return Kind(FitColumn.SOLVER, again=True), correction, *of_cache
    plain = Kind(FitColumn.SOLVER), correction, *of_cache
    return plain if schedule.start is not None else (Kind(FitColumn.SOLVER, analytic=True), *plain)


def _label(kind: Kind, chance: _Chance) -> str:
    """Such as "correction of solver of ab2, 8 steps"; the same again says no more."""
    what = "analytic start, solver" if kind.analytic else kind.column
    return chance.label if kind.again and f"{kind.column} of " in chance.label else f"{what} of {chance.label}"
