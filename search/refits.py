"""Fits by gradient of the solver columns of schedules on the front or near it, under their caches and branches."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from autotune.search.archive import ParetoArchive
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

LIKENESS = 0.3
"""Standard deviation, in the logarithm of the step count, of the Gaussian by which fits count for others."""

STRIDE = 8
"""Fits are carried by one step, from twice this number of steps on by two, and so on."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is fitted; whether it, or what it was carried from, was before; whether with a new analytic first step."""

    column: FitColumn
    again: bool = False
    analytic: bool = False


PRIORS: Mapping[_Kind, tuple[float, float]] = {
    _Kind(FitColumn.SOLVER): (0.5, 260.0),
    _Kind(FitColumn.SOLVER, analytic=True): (0.42, 260.0),
    _Kind(FitColumn.SOLVER, again=True): (0.8, 260.0),
    _Kind(FitColumn.CORRECTION): (0.75, 440.0),
    _Kind(FitColumn.CORRECTION, again=True): (0.9, 440.0),
}
"""What a quick fit is expected to leave of an error, and how many runs over a prompt it is expected to take.

That is before the first one has been seen; it counts as one fit. With an analytic first step, six fits at 5 to 16
steps of mini-flux and mini-pixart left .36 to .61; without, three from the same schedules .47 to .62.
"""


@dataclass(slots=True)
class _Experience:
    """The fits of one kind: logarithms of their step counts and of what they left of the error.

    `runs` is their mean cost, and `n` their number, with the prior as one of them.
    """

    prior: float
    runs: float
    fits: list[tuple[float, float]] = field(default_factory=list)
    n: int = 1

    def ratio(self, n_steps: int, likely: float = 1.0) -> float:
        """What a fit leaves of the error: a geometric mean, in which fits at like step counts weigh most.

        It counts as the first of them that `likely` is left, if that is less than the prior.
        """
        weights = [math.exp(-0.5 * ((n - math.log(n_steps)) / LIKENESS) ** 2) for n, _ in self.fits]
        first = math.log(min(self.prior, likely))
        total = first + sum(w * left for w, (_, left) in zip(weights, self.fits, strict=True))
        return math.exp(total / (1.0 + sum(weights)))


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
    kind: _Kind
    error: float
    label: str
    gain: float


class Refits:
    """Quick fits of times and factors of good schedules, and of their coefficients, which go on as long as they pay.

    Good are the members of the front, and of each number of steps what comes closest to the converged run: a plain
    solver that the front has passed by may pass it again once fitted.

    Coefficients come last (`FitColumn.CORRECTION`), since they belong to fixed times and formulas. A fit of times and
    factors that comes to stand on the front is carried to neighbouring numbers of steps (`carry_fit`), on and on as
    long as what it comes to does so too, at an evaluation each; later fits go on from there. The next fit is the one
    that promises most hypervolume for what it costs, were the error to fall as in those of its kind before with about
    as many steps, and as far as fits at fewer and at more steps let expect. Members that leave the solver to the
    pipeline have nothing to fit.
    """

    family = "refits"

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        self._context = context
        self._novelty = Novelty(context.inventory)
        self._archive = ParetoArchive(context.objectives, context.constraints)
        self._closest: dict[int, tuple[Proposal, Measurement]] = {}
        """Of feasible schedules with a solver, by their number of steps, if measured on all prompts."""
        self._solvers = SolverVariation(context.condition.noise_schedule, context.condition.start_timestep)
        self._tables = TableVariation(context)
        self._known = {kind: _Experience(ratio, runs) for kind, (ratio, runs) in PRIORS.items()}
        self._rng = np.random.default_rng(seed)
        self._done: dict[str, set[_Kind]] = {}
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
        except ScheduleError:
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
            fixed = schedule.time is None or schedule.policy is not None or schedule.tables  # tables fit one solver
            if fixed or error <= 0.0:
                continue
            is_whole = schedule.cache is None and schedule.guidance is None  # as those are that lie on the line
            likely = _between(fitted, schedule.n_steps) if is_whole else error
            for kind in _kinds(schedule, proposal.schedule_hash in self._fits):
                if kind in self._done.get(proposal.schedule_hash, ()):
                    continue
                known = self._known[kind]
                left = known.ratio(schedule.n_steps, likely / error)
                after = front_hypervolume([*costs, cost], [*errors, error * left])
                price = 1.0 + known.runs * schedule.n_steps / calls_per_evaluation
                chances.append(_Chance(schedule, kind, error, proposal.label, (after - before) / price))
        return chances


def _kinds(schedule: Schedule, is_fitted: bool) -> tuple[_Kind, ...]:
    """What may be fitted of a schedule: nothing that its correction stands on, if it has one."""
    correction = _Kind(FitColumn.CORRECTION)
    if schedule.correction is not None:
        return (replace(correction, again=True),)
    if is_fitted:
        return _Kind(FitColumn.SOLVER, again=True), correction
    plain = _Kind(FitColumn.SOLVER), correction
    return plain if schedule.start is not None else (_Kind(FitColumn.SOLVER, analytic=True), *plain)


def _between(fitted: Mapping[int, float], n_steps: int) -> float:
    """The error that fits at fewer and at more steps let expect at `n_steps`: the least on a line between two of them.

    `fitted` has their errors by their steps; lines are straight on logarithmic axes. Infinite with none on one side.
    """
    fewer, more = ([n for n, e in fitted.items() if side * (n - n_steps) > 0 and e > 0.0] for side in (-1, 1))
    weights = ((math.log(m / n_steps) / math.log(m / n), n, m) for n in fewer for m in more)
    return min((fitted[n] ** w * fitted[m] ** (1.0 - w) for w, n, m in weights), default=math.inf)


def _label(kind: _Kind, chance: _Chance) -> str:
    """Such as "correction of solver of ab2, 8 steps"; the same again says no more."""
    what = "analytic start, solver" if kind.analytic else kind.column
    return chance.label if kind.again and f"{kind.column} of " in chance.label else f"{what} of {chance.label}"
