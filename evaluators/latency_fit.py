"""A latency model from the times of sites and those of the calls of designed runs, by non-negative least squares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from autotune.spaces.cache_plan import CachePlan, cell_use
from autotune.spaces.guidance_column import dropped_rows
from autotune.spaces.inventory import Inventory
from autotune.spaces.latency_model import LatencyModel, combined, written
from autotune.spaces.schedule import Schedule

Array = NDArray[np.float64]

ROUNDS = 6
"""Rounds in which the coefficients are fitted, speeds and weights found, and outliers left out."""

NOISE = 0.02
"""Typical noise of a call, as a share of it: what priors are weighed with."""

SITE_DOUBT = 0.1
"""Doubt of a timer: how far the time of a kind of site may be from it, as a share."""

STORE_DOUBT = 0.005
"""What reading, storing or combining one value may take, as a share of a call."""

N_STORE = 6
"""Coefficients of reads, terms of forecasts and writes, by number and by size."""

CHEAPEST = 0.05
"""The weight of calls that take less, as a share of one that computes all, is that of such a call."""

OUTLIER = 4.0
"""Residuals beyond so many times their typical size are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRun:
    """Seconds of one run: of each network call after the first, (n_calls - 1,), of the whole, of a sampler's step."""

    schedule: Schedule
    call_seconds: Array
    seconds: float
    step_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFigures:
    """What timers saw: seconds of each site with both branches and with one, bytes of its value, copies that it takes.

    `moved` counts how often a value's bytes are read or written in the store besides a forecast: 1 for residuals, which
    are taken from and added to the input, and for copied values.
    """

    seconds: Array
    half_seconds: Array
    value_bytes: Array
    moved: Array


def fit_latency(runs: Sequence[TimedRun], figures: SiteFigures, inventory: Inventory, n_images: int) -> LatencyModel:
    """The model that fits the calls of all runs best.

    A run's speed is what its calls take that compute all and store nothing; that of a run without such calls lies
    between its neighbours'. So a device that warms up or is shared does little harm. (Calls that store what they
    compute are slower for it, and a speed from them takes that for the device's.) A call's noise grows with its time:
    squares of residuals are weighed by its inverse, so that cheap calls count. (Speeds that follow the calls around
    each within a run leave less noise, but calls that compute all are slower after cheap ones, and what a cache saves
    came out too large.)

    Args:
        runs: the default one, once or more often, and those of `designed_schedules`.
        figures: the sites.
        inventory: the sites.
        n_images: images of each run.
    """
    default = [run.call_seconds for run in runs if _is_default(run)]
    unit = float(np.median(np.concatenate(default)))
    columns = _Columns(figures, inventory, unit)
    tables = [columns.of(run) for run in runs]
    inputs = np.concatenate([table[1:] for table in tables])
    plain = [_is_plain(run, inventory) for run in runs]
    predicted = [np.ones(len(table) - 1) for table in tables]
    kept = np.ones(len(inputs), bool)
    for _ in range(ROUNDS):
        speeds = _speeds(runs, plain, predicted) / unit
        timed = np.concatenate([run.call_seconds / (speed * unit) for run, speed in zip(runs, speeds, strict=True)])
        weights = np.maximum(np.concatenate(predicted), CHEAPEST) ** -0.5
        coefficients = columns.solve(inputs[kept], timed[kept], weights[kept])
        predicted = [table[1:] @ coefficients for table in tables]
        residuals = np.abs(np.concatenate(predicted) - timed) * weights
        kept = residuals <= OUTLIER * 1.4826 * max(float(np.median(residuals)), 1e-4)
    outside = [
        (run.seconds - float(run.call_seconds.sum())) / (speed * unit) - float(table[0] @ coefficients)
        for run, speed, table in zip(runs, speeds, tables, strict=True)
    ]
    steps = [(run.step_seconds / speed, run.schedule.solver) for run, speed in zip(runs, speeds, strict=True)]
    own = float(np.median([seconds for seconds, solver in steps if solver is None]))
    other = [seconds for seconds, solver in steps if solver is not None]
    return columns.model(
        coefficients,
        outside=max(0.0, float(np.median(outside))),
        solver=(float(np.median(other)) - own) / unit if other else 0.0,
        unit_ms=1000.0 * unit / n_images,
    )


def _is_default(run: TimedRun) -> bool:
    return run.schedule == Schedule(n_steps=run.schedule.n_steps)


def _is_plain(run: TimedRun, inventory: Inventory) -> NDArray[np.bool_]:
    """Which calls after the first compute all by the pipeline's own sampler, and store nothing: bool (n_calls - 1,)."""
    schedule, n_calls = run.schedule, len(run.call_seconds) + 1
    plain = ~np.array(dropped_rows(schedule.guidance, n_calls)) & (schedule.solver is None)
    if schedule.cache is not None:
        use = cell_use(schedule.cache, inventory)
        plain &= use.runs.all(axis=1) & ~written(use).any(axis=1)
    return np.asarray(plain[1:])


def _speeds(runs: Sequence[TimedRun], plain: Sequence[NDArray[np.bool_]], predicted: Sequence[Array]) -> Array:
    """Seconds of each run's calls that compute all over the predicted; without any, between the neighbours': (n,)."""
    known = [i for i in range(len(runs)) if plain[i].any()]
    own = [np.exp(np.log(runs[i].call_seconds[plain[i]] / predicted[i][plain[i]]).mean()) for i in known]
    return np.asarray(np.interp(np.arange(len(runs)), known, own))


class _Columns:
    """What a call's time is linear in: how many there are, times in units of a default call, sizes of the largest."""

    def __init__(self, figures: SiteFigures, inventory: Inventory, unit_s: float) -> None:
        self._inventory, self._moved = inventory, figures.moved
        self._components = sorted({site.component for site in inventory.sites})
        owner = [self._components.index(site.component) for site in inventory.sites]
        self._member = np.eye(len(self._components))[owner]
        self._site, self._half_site = figures.seconds / unit_s, figures.half_seconds / unit_s
        self._size = figures.value_bytes / max(float(figures.value_bytes.max()), 1.0)

    def of(self, run: TimedRun) -> Array:
        """The quantities of each call; see `model` for their order: (n_calls, n)."""
        n_calls, schedule = len(run.call_seconds) + 1, run.schedule
        half = np.array(dropped_rows(schedule.guidance, n_calls))
        plan = schedule.cache or CachePlan.from_array(np.zeros((n_calls, len(self._inventory)), np.uint8))
        use = cell_use(plan, self._inventory)
        share = np.where(half, 0.5, 1.0)[:, None]
        reads, terms, writes = share * use.reads, share * combined(use), share * written(use)
        moved = self._moved * self._size
        stored = [reads.sum(1), reads @ moved, terms.sum(1), terms @ self._size, writes.sum(1), writes @ moved]
        times = (use.runs * np.where(half[:, None], self._half_site, self._site)) @ self._member
        return np.column_stack([~half, half, *stored, times * ~half[:, None], times * half[:, None]])

    def solve(self, inputs: Array, timed: Array, weights: Array) -> Array:
        """Non-negative ones, of components (with both branches, with one) near 1, of stored values near 0."""
        priors = np.zeros(inputs.shape[1])
        priors[2 : 2 + N_STORE] = NOISE / STORE_DOUBT
        priors[2 + N_STORE :] = NOISE / SITE_DOUBT
        expected = np.where(np.arange(len(priors)) < 2 + N_STORE, 0.0, priors)
        rows = np.vstack([weights[:, None] * inputs, np.diag(priors)])
        solution, _ = nnls(rows, np.concatenate([weights * timed, expected]))
        return np.asarray(solution, np.float64)

    def model(self, coefficients: Array, *, outside: float, solver: float, unit_ms: float) -> LatencyModel:
        """The latency model of these coefficients.

        `outside` is what a run takes besides its calls, `solver` what a step of an own solver takes more.
        """
        call, half_call, read, read_moved, term, term_size, write, write_moved = coefficients[: 2 + N_STORE]
        scale, half_scale = (self._member @ part for part in np.split(coefficients[2 + N_STORE :], 2))
        moved = self._moved * self._size
        return LatencyModel(
            run_ms=outside * unit_ms,
            call_ms=float(call) * unit_ms,
            half_call_ms=float(half_call) * unit_ms,
            solver_ms=solver * unit_ms,
            site_ms=_listed(unit_ms * scale * self._site),
            half_site_ms=_listed(unit_ms * half_scale * self._half_site),
            read_ms=_listed(unit_ms * (read + read_moved * moved)),
            term_ms=_listed(unit_ms * (term + term_size * self._size)),
            write_ms=_listed(unit_ms * (write + write_moved * moved)),
        )


def _listed(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
