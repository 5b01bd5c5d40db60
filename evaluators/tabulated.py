"""An evaluator that runs no network: quality and latency by formula, so that a search can be tested in milliseconds.

The shape of the formulas follows what is measured on real models: error falls with a power of the number of steps,
faster for higher-order solvers; it grows with the gap over which a value is reused, more at the entry and the exit of
the stack and at both ends of the run; latency is affine in the multiply-accumulates.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autotune.evaluators.small_flux import small_flux_condition, small_flux_inventory
from autotune.evaluators.tabulated_errors import (
    branch_changes,
    episode_quality,
    image_quality,
    policy_effect,
    prompt_factors,
    reuse_costs,
    reuse_error,
    segment_changes,
    unit_noise,
)
from autotune.spaces.branch_tables import BranchTables
from autotune.spaces.cache_memory import CacheMemory
from autotune.spaces.column_fit import CACHE_CORRECTIONS, ColumnFit, FitColumn, FitTarget, Precision
from autotune.spaces.condition import Condition
from autotune.spaces.cost_model import CostModel
from autotune.spaces.edge_costs import EdgeCosts, EdgeSource
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.inventory import Inventory
from autotune.spaces.latency_model import LatencyModel
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.program_correction import ProgramCorrection
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash
from autotune.spaces.schedule_macs import schedule_macs
from autotune.spaces.segment_costs import SegmentCosts
from autotune.spaces.solver_formula import Prediction, levels_of, view_of_output
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.time_grid import uniform_lambda
from autotune.spaces.trace import Trace

MS_OVERHEAD_PER_CALL = 1.0
MS_PER_GIGA_MAC = 20.0
DECODE_MS = 2.0
FIT_RUNS = 1200
FITTED_RATIO = 1.1
CORRECTED = 0.7
QUANTIZED, WEIGHT_BYTES = 0.02, 1_000_000

Array = NDArray[np.float64]


class SimulatedTime(Protocol):
    """A clock that can be moved."""

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        ...


class TabulatedEvaluator:
    """An evaluator by formula; exact, or with seeded relative noise on the latency.

    `clock`, if given, is advanced by what an evaluation would cost. `fails` may turn a schedule into a failure. With
    `episodes` it measures what a policy's evaluator does, `success` and `action-error`, and nothing of images.
    """

    protocol = "tabulated-1"

    def __init__(
        self,
        condition: Condition | None = None,
        inventory: Inventory | None = None,
        *,
        clock: SimulatedTime | None = None,
        latency_noise: float = 0.0,
        fails: Callable[[Schedule], Failure | None] = lambda schedule: None,
        episodes: bool = False,
    ) -> None:
        self.inventory = inventory or small_flux_inventory()
        self.condition = condition or small_flux_condition(self.inventory)
        self.guided, self.converges = self.condition.guidance_scale > 1.0, True
        self._clock = clock
        self._latency_noise = latency_noise
        self._fails, self._episodes = fails, episodes

    def own_timesteps(self, n_steps: int) -> tuple[float, ...]:
        """The shifted flow grid of the pipeline, `n_steps` entries from 1000 down."""
        sigma = np.linspace(1.0, 1.0 / n_steps, n_steps)
        noise = self.condition.noise_schedule
        shift = np.exp(noise.mu) if isinstance(noise, Flow) else 1.0
        return tuple((1000.0 * shift * sigma / (1.0 + (shift - 1.0) * sigma)).tolist())

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        """The formula's measurement; the same schedule always measures the same.

        Raises:
            ScheduleError: the cache plan does not fit the inventory.
        """
        canonical = canonical_schedule(schedule, self.inventory)
        digest = schedule_hash(canonical)
        baseline = Schedule(n_steps=self.condition.n_steps)
        macs, baseline_macs = self._macs(canonical), self._macs(baseline)
        n_calls = len(canonical.time or self.own_timesteps(canonical.n_steps))
        jitter = unit_noise(f"{digest}/{fidelity.hash}", 2 * repeats) * self._latency_noise
        latency = (1.0 + jitter[:repeats]) * self._latency_ms(macs, n_calls)
        baseline_latency = (1.0 + jitter[repeats:]) * self._latency_ms(baseline_macs, self._n_calls)
        wall_s = (float(latency.sum() + baseline_latency.sum()) + len(fidelity.prompts) * float(latency[0])) / 1000.0
        if self._clock is not None:
            self._clock.advance(wall_s)
        failure = self._fails(canonical)
        if failure is not None:
            return failure
        deviation, factors = self._deviation(canonical), prompt_factors(fidelity)
        return Measurement(
            quality=episode_quality(deviation, factors) if self._episodes else image_quality(deviation * factors),
            latency_ms=tuple(latency.tolist()),
            baseline_latency_ms=tuple(baseline_latency.tolist()),
            macs=macs,
            baseline_macs=baseline_macs,
            network_calls=n_calls,
            peak_memory_bytes=0 if canonical.cache is None else 1_000_000 * canonical.cache.n_sites,
            wall_s=wall_s,
            weight_bytes=WEIGHT_BYTES // (1 if canonical.quantization is None else 4),
            baseline_weight_bytes=WEIGHT_BYTES,
            bit_operations=macs * (32 * 32 if canonical.quantization is None else 8 * 8),
            baseline_bit_operations=baseline_macs * 32 * 32,
        )

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
        """A column that the formula rewards, at the price of a real fit; one that is cut off comes to nothing.

        Raises:
            ScheduleError: the schedule has no solver, or the fit costs more than `max_image_runs`.
        """
        image_runs = FIT_RUNS // 4 if quick else FIT_RUNS
        if max_image_runs is not None and max_image_runs < image_runs:
            raise ScheduleError(f"the fit takes {image_runs} image runs; {max_image_runs} are left")
        if column in CACHE_CORRECTIONS or isinstance(column, Precision):
            name = "quantization" if isinstance(column, Precision) else "cache_correction"
            fitted = schedule.before_table(name)
            made: Any = {name: hashlib.sha256(f"{column}{schedule_hash(fitted)}".encode()).hexdigest()}
            fitted = replace(fitted, **made)
            before, after = self._deviation(schedule), self._deviation(fitted)
            return ColumnFit(schedule=fitted, before=before, after=after, image_runs=image_runs)
        time, solver = schedule.solver_columns
        n = len(solver)
        fitted = replace(schedule, compensation=(FITTED_RATIO,) * n)
        if column is FitColumn.SOLVER:
            rows = (replace(row, output_gain=FITTED_RATIO) if isinstance(row, SolverStep) else row for row in solver)
            fitted = replace(schedule, time=time, solver=tuple(rows))
        if column is FitColumn.CORRECTION:
            table = tuple((0.01,) * (i + 1) for i in range(n))
            fitted = replace(schedule, correction=ProgramCorrection(timesteps=(0.0,) * n, states=table, outputs=table))
        needed_s = image_runs * n * MS_OVERHEAD_PER_CALL / 1000.0
        stopped = self._clock is not None and timeout_s is not None and needed_s > timeout_s
        if self._clock is not None:
            self._clock.advance(min(needed_s, timeout_s or 0.0) if stopped else needed_s)
        fitted = schedule if stopped else fitted
        before, after = self._deviation(schedule), self._deviation(fitted)
        return ColumnFit(schedule=fitted, before=before, after=after, image_runs=image_runs, stopped=stopped)

    def contact_sheet(self, schedule: Schedule, fidelity: Fidelity, indices: Sequence[int]) -> bytes:
        """Bytes that name the schedule; not a picture."""
        return f"sheet of {schedule_hash(canonical_schedule(schedule, self.inventory))}, {list(indices)}".encode()

    def trace(self, fidelity: Fidelity, n_prompts: int, n_levels: int) -> Trace:
        """The exact trajectories of Gaussian data N(0.5, 0.25), 16 elements per sample, on a grid uniform in lambda.

        Raises:
            UsageError: the fidelity has fewer prompts.
        """
        condition = self.condition
        times = uniform_lambda(condition.noise_schedule, n_levels, t_start=condition.start_timestep)
        levels = levels_of(times, condition.noise_schedule)
        prediction: Prediction = condition.prediction
        pairs = zip(fidelity.first(n_prompts).prompts, fidelity.seeds, strict=False)
        z = np.stack([unit_noise(f"{prompt}/{seed}", 16) for prompt, seed in pairs])
        alpha, sigma = (np.array(level)[:, None, None] for level in (levels.alpha, levels.sigma))
        spread = np.sqrt((0.5 * alpha) ** 2 + sigma**2)
        states = 0.5 * alpha + spread * z
        data = 0.5 + 0.25 * alpha / spread * z
        factors = [
            view_of_output("data", prediction, a, s, levels.flow)
            for a, s in zip(levels.alpha[:-1], levels.sigma[:-1], strict=True)
        ]
        on_state, on_output = np.array(factors).T[..., None, None]
        outputs = (data[:-1] - on_state * states[:-1]) / on_output
        return Trace(timesteps=np.array(times), states=states.astype(np.float32), outputs=outputs.astype(np.float32))

    def edge_costs(self, fidelity: Fidelity, n_prompts: int, source: EdgeSource = "hybrid") -> EdgeCosts:
        """The errors of `reuse_error` for a site of weight 1.

        Raises:
            UsageError: the fidelity has fewer prompts.
        """
        fidelity.first(n_prompts)
        return reuse_costs(self._n_calls)

    def branch_tables(self, fidelity: Fidelity, n_prompts: int) -> BranchTables:
        """The angles of `branch_changes`; a UsageError if the fidelity has fewer prompts."""
        fidelity.first(n_prompts)
        return branch_changes(self.inventory, self._n_calls)

    def segment_costs(self, fidelity: Fidelity, n_prompts: int) -> SegmentCosts:
        """The costs of `segment_changes`; a UsageError if the fidelity has fewer prompts."""
        fidelity.first(n_prompts)
        return segment_changes(self._n_calls)

    def default_ms(self, fidelity: Fidelity) -> float:
        """The formula's latency of the default run without its noise."""
        return self.cost_model(fidelity).latency_ms(Schedule(n_steps=self.condition.n_steps))

    def cost_model(self, fidelity: Fidelity, rounds: int = 1) -> CostModel:
        """The formula's latency without its noise; a value of each site takes 1000 bytes."""
        mac_ms, guided = MS_PER_GIGA_MAC / 1e9, self.condition.guidance_scale > 1.0
        n_sites = len(self.inventory)
        return CostModel(
            latency=LatencyModel.of_macs(
                self.inventory,
                run_ms=DECODE_MS,
                call_ms=MS_OVERHEAD_PER_CALL,
                mac_ms=2 * mac_ms if guided else mac_ms,
                half=0.5 if guided else 1.0,
            ),
            memory=CacheMemory(value_bytes=((1000,) * n_sites,), order=tuple(range(n_sites))),
            inventory=self.inventory,
            n_steps=self.condition.n_steps,
            n_calls=self._n_calls,
            batch_size=self.condition.batch_size,
        )

    @property
    def _n_calls(self) -> int:
        return len(self.own_timesteps(self.condition.n_steps))

    def _macs(self, schedule: Schedule) -> int:
        n_calls = len(schedule.time or self.own_timesteps(schedule.n_steps))
        macs = schedule_macs(schedule, self.inventory, n_calls, 2 if self.guided else 1)
        return macs if schedule.policy is None else round(macs * (1.0 - policy_effect(schedule.policy)[0]))

    def _latency_ms(self, macs: int, n_calls: int) -> float:
        return DECODE_MS + MS_OVERHEAD_PER_CALL * n_calls + MS_PER_GIGA_MAC * macs / 1e9

    def _deviation(self, schedule: Schedule) -> float:
        order, gain_error = 1.0, 0.1
        if schedule.solver is not None:
            order = 0.8 + 0.3 * float(np.mean([step.order + 0.5 * step.corrector for step in schedule.solver]))
            gains = [row.output_gain for row in schedule.solver if isinstance(row, SolverStep)]
            gain_error = abs(float(np.mean(gains)) - FITTED_RATIO) if gains else 0.1
        solver_error = 0.6 * schedule.n_steps ** -(order + 0.2) * (0.9 + gain_error)
        if schedule.compensation is not None:
            solver_error *= 0.8 + abs(float(np.mean(schedule.compensation)) - FITTED_RATIO)
        if schedule.correction is not None:
            solver_error *= 0.5
        plans = [plan for plan in (schedule.cache, schedule.unconditional_cache) if plan is not None]
        cache_error = max((reuse_error(plan, self.inventory) for plan in plans), default=0.0)
        if schedule.cache_correction is not None:
            cache_error *= CORRECTED
        if schedule.policy is not None:
            cache_error = policy_effect(schedule.policy)[1]
        return float(np.hypot(np.hypot(solver_error, cache_error), QUANTIZED * (schedule.quantization is not None)))
