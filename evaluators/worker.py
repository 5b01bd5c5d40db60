"""The worker: one warm model that scores schedules against a converged reference and the pipeline's default run."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.apply import attach, policy_usage, remove
from autotune.evaluators.baseline_timing import BaselineTiming
from autotune.evaluators.bit_operations import BitOperations
from autotune.evaluators.bit_sensitivity import BitSensitivities
from autotune.evaluators.branch_recording import load_or_record_branches
from autotune.evaluators.contact_sheet import make_contact_sheet
from autotune.evaluators.cost_measurement import load_or_measure_costs
from autotune.evaluators.edge_recording import load_or_measure_edges
from autotune.evaluators.energy import EnergyMeter
from autotune.evaluators.fit_job import FitJob
from autotune.evaluators.inventory import measure_inventory
from autotune.evaluators.load import LoadedModel
from autotune.evaluators.metrics import RewardModel
from autotune.evaluators.model_condition import condition_of
from autotune.evaluators.noise import flow_mu, own_timesteps
from autotune.evaluators.peak_memory import is_out_of_memory, measure_peak_memory
from autotune.evaluators.quantized_layers import weight_bytes
from autotune.evaluators.reference import ArtifactCache, References
from autotune.evaluators.sampling import Deadline, Purpose, RunCost, Samples
from autotune.evaluators.schedule_table import TableStore
from autotune.evaluators.schedule_work import ScheduleWork
from autotune.evaluators.segment_recording import load_or_record_segments
from autotune.evaluators.site_timing import StepTimer
from autotune.evaluators.thumbnails import Thumbnails
from autotune.evaluators.trace import StepRecorder, Watcher, load_or_make_trace
from autotune.evaluators.weight_sample import sample_weights
from autotune.evaluators.workload import make_workload
from autotune.spaces.branch_tables import BranchTables
from autotune.spaces.column_fit import ColumnFit, FitTarget
from autotune.spaces.cost_model import CostModel
from autotune.spaces.edge_costs import EdgeCosts, EdgeSource
from autotune.spaces.errors import EvaluatorError, ScheduleError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.spaces.segment_costs import SegmentCosts
from autotune.spaces.trace import Trace

PROTOCOL = "2"
"""Version of the measuring code."""


class Worker:
    """Scores schedules on one device with one warm model; implements `autotune.evaluators.evaluator.Evaluator`.

    `artifacts` keeps reference runs between processes; without it they are made anew. `timeout_s` limits one
    candidate's run; by default it is 20 times the baseline's, and at least a minute. `rewards` judge the images too,
    and `meter` tells what timed runs take; both enter the protocol. `tables` are those of schedules. Schedules are
    compared with the default and the converged runs of another worker, `beside`, if there is one.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        artifacts: ArtifactCache | None = None,
        timeout_s: float | None = None,
        rewards: Sequence[RewardModel] = (),
        meter: EnergyMeter | None = None,
        beside: "Worker | None" = None,
    ) -> None:
        self._pipe, self._preset, self._meter = model.pipe, model.preset, meter
        self._workload = make_workload(model, rewards)
        self.converges = self._workload.converges
        self.protocol = PROTOCOL + self._workload.identity + ("" if meter is None else f"+energy@{meter.source}")
        self._artifacts, self._timeout_s = artifacts, timeout_s
        preset, pipe = model.preset, model.pipe
        self.inventory = measure_inventory(pipe, preset.height, preset.width)
        self._mu = flow_mu(pipe, preset.height, preset.width)
        self._adapter = find_adapter(pipe)
        branches = self._adapter.guidance if preset.guidance_scale > 1 else "embedded"
        self.guided = branches != "embedded"
        self._work = ScheduleWork(self.inventory, branches, lambda n_steps: len(self.own_timesteps(n_steps)))
        self.condition = condition_of(model, self.inventory.hash, self.own_timesteps(preset.n_steps)[0])
        self._bits = BitOperations(pipe, self.inventory, preset.height, preset.width)
        self.tables = TableStore(self.condition, artifacts, sample_weights(self._adapter.denoiser_of(pipe)))
        self._baseline = Schedule(n_steps=preset.n_steps)
        default = self._workload.reference_schedule(self.condition)
        self.timing = BaselineTiming(lambda fidelity: self._time(self._baseline, fidelity), preset.batch_size)
        self._reference_samples = References(self.condition, lambda f: self._run(default, f, None), artifacts)
        self._references: dict[str, Samples] = {}
        if beside is not None:
            self.timing, self._reference_samples = beside.timing, beside._reference_samples

        def run_latents(
            schedule: Schedule, some: Fidelity, watcher: Watcher | None, given: AppliedTables | None
        ) -> torch.Tensor:
            return self._run(schedule, some, None, watcher, given).latents

        self._fits = FitJob(
            pipe=pipe,
            workload=self._workload,
            condition=self.condition,
            inventory=self.inventory,
            reference=lambda fidelity: self.reference(fidelity).latents,
            run=run_latents,
            tables=self.tables,
            sensitivities=BitSensitivities(
                pipe,
                self.condition,
                self.inventory,
                len(self.own_timesteps(preset.n_steps)),
                run_latents,
                artifacts,
            ),
            artifacts=artifacts,
            guided=self.guided,
        )
        self._thumbnails = Thumbnails()

    def own_timesteps(self, n_steps: int) -> tuple[float, ...]:
        """The pipeline's own grid for `n_steps` steps: one model timestep per network call."""
        return own_timesteps(self._pipe.scheduler, n_steps, self._mu, even_sigmas=self._adapter.even_sigmas)

    def reference(self, fidelity: Fidelity) -> Samples:
        """The converged run from the same starting noise, made once per prompt and seed."""
        if fidelity.hash not in self._references:
            self._references[fidelity.hash] = self._reference_samples.of(fidelity)
        return self._references[fidelity.hash]

    def trace(self, fidelity: Fidelity, n_prompts: int, n_levels: int) -> Trace:
        """The states and outputs of the converged run in `n_levels` calls, over the first prompts of a fidelity.

        It is kept among the artifacts, and otherwise made anew by every call; `StepRecorder` says what it takes.
        """
        some = fidelity.first(n_prompts)

        def run(schedule: Schedule, recorder: StepRecorder) -> None:
            self._run(schedule, some, None, recorder)

        return load_or_make_trace(self.condition, some, n_levels, run, self._artifacts)

    def edge_costs(self, fidelity: Fidelity, n_prompts: int, source: EdgeSource = "hybrid") -> EdgeCosts:
        """What approximating calls would cost, measured on a few runs of each prompt; kept among the artifacts."""
        return load_or_measure_edges(**self._recording(fidelity.first(n_prompts)), source=source)

    def branch_tables(self, fidelity: Fidelity, n_prompts: int) -> BranchTables:
        """How outputs of branches change, recorded on a run of each prompt; see `Evaluator.branch_tables`."""
        return load_or_record_branches(**self._recording(fidelity.first(n_prompts)))

    def segment_costs(self, fidelity: Fidelity, n_prompts: int) -> SegmentCosts:
        """What reusing the feature at the cache point costs; see `Evaluator.segment_costs`."""
        return load_or_record_segments(**self._recording(fidelity.first(n_prompts)))

    def _recording(self, fidelity: Fidelity) -> dict[str, Any]:
        shared = {"pipe": self._pipe, "condition": self.condition, "fidelity": fidelity, "inventory": self.inventory}
        n_calls = len(self.own_timesteps(self.condition.n_steps))
        run = lambda schedule: self._run(schedule, fidelity, None).latents  # noqa: E731
        return {**shared, "n_calls": n_calls, "run": run, "artifacts": self._artifacts}

    def cost_model(self, fidelity: Fidelity, rounds: int = 1) -> CostModel:
        """What schedules cost, measured on the first batch of a fidelity; kept among the artifacts."""
        n_images = min(self._preset.batch_size, len(fidelity.prompts))
        batch, n_calls = fidelity.first(n_images), len(self.own_timesteps(self.condition.n_steps))

        def run(schedule: Schedule, timer: StepTimer) -> float:
            return self._run(schedule, batch, None, timer, purpose=Purpose.TIMED).seconds

        setting = self._pipe, self.condition, self.inventory
        return load_or_measure_costs(*setting, n_calls, n_images, rounds, run, self._artifacts)

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        """Measure a schedule: quality on the whole fidelity, latency over `repeats` runs.

        With several repeats every timed run is preceded by one of the baseline, and the run that is scored is not
        counted, as the first of its kind is slow. With one, that run is timed, and the baseline's last timings in
        batches of this size stand in.

        Raises:
            EvaluatorError: the run failed for a reason that is not the schedule's.
        """
        reference = self.reference(fidelity)
        began = time.monotonic()
        try:
            defaults = self.timing.recent(fidelity)
            with measure_peak_memory(self._pipe._execution_device) as peak:
                limit = self._limit(defaults[-1], fidelity)
                samples = self._run(schedule, fidelity, limit, purpose=Purpose.SCORED)
            if not bool(torch.isfinite(samples.latents).all()):
                return Failure(kind=FailureKind.NAN, reason="the final latents hold NaN or infinite values")
            costs = [samples.cost]
            if repeats > 1:
                pairs = [(self.timing.refresh(fidelity), self._time(schedule, fidelity)) for _ in range(repeats)]
                defaults, costs = map(list, zip(*pairs, strict=True))
        except Deadline as error:
            return Failure(kind=FailureKind.TIMEOUT, reason=str(error))
        except ScheduleError as error:
            return Failure(kind=FailureKind.INVALID, reason=str(error))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise EvaluatorError(f"the pipeline failed while scoring a schedule: {error}") from error
            return Failure(kind=FailureKind.OUT_OF_MEMORY, reason=str(error).splitlines()[0])
        self._thumbnails.keep(schedule, fidelity, samples.images)
        denoiser = self._adapter.denoiser_of(self._pipe)
        quantization = self._tables_of(schedule).quantization
        weighed = self._bits.plain if quantization is None else self._bits.inventory(quantization)
        return Measurement(
            quality=self._workload.quality(samples, reference, fidelity),
            latency_ms=tuple(cost.ms for cost in costs),
            baseline_latency_ms=tuple(cost.ms for cost in defaults),
            energy_j=tuple(cost.energy_j for cost in costs if cost.energy_j is not None),
            baseline_energy_j=tuple(cost.energy_j for cost in defaults if cost.energy_j is not None),
            macs=self._work.macs(schedule, samples.usage),
            baseline_macs=self._work.macs(self._baseline),
            network_calls=self._work.n_calls(schedule, samples.usage),
            peak_memory_bytes=peak.bytes,
            weight_bytes=weight_bytes(denoiser, quantization),
            baseline_weight_bytes=weight_bytes(denoiser),
            bit_operations=self._work.bit_operations(schedule, weighed, samples.usage),
            baseline_bit_operations=self._work.bit_operations(self._baseline, self._bits.plain),
            wall_s=time.monotonic() - began,
        )

    def default_ms(self, fidelity: Fidelity) -> float:
        """Time the default run on the first batch of a fidelity; scoring in batches of this size uses it, too.

        Raises:
            EvaluatorError: the run failed.
        """
        try:
            return self.timing.refresh(fidelity).ms
        except (MemoryError, RuntimeError) as error:
            raise EvaluatorError(f"the pipeline's default run failed: {error}; try a smaller resolution") from error

    def fit(
        self,
        schedule: Schedule,
        column: FitTarget,
        fidelity: Fidelity,
        *,
        timeout_s: float | None = None,
        max_image_runs: int | None = None,
        quick: bool = False,
        layer_corrections: bool = True,
    ) -> ColumnFit:
        """Fit a column to the reference on the prompts of a fidelity; see `FitJob`."""
        return self._fits.fit(
            schedule,
            column,
            fidelity,
            timeout_s=timeout_s,
            max_image_runs=max_image_runs,
            quick=quick,
            layer_corrections=layer_corrections,
        )

    def contact_sheet(self, schedule: Schedule, fidelity: Fidelity, indices: Sequence[int]) -> bytes:
        """PNG of the samples of some prompts side by side; those are run again whose thumbnails are gone."""
        kept = self._thumbnails.of(schedule, fidelity)
        if kept is not None:
            return make_contact_sheet(kept[list(indices)], indices)
        samples = self._run(schedule, fidelity.only(indices), None, purpose=Purpose.SCORED)
        return make_contact_sheet(samples.images, indices)

    def _run(
        self,
        schedule: Schedule,
        fidelity: Fidelity,
        timeout_s: float | None,
        recorder: Watcher | None = None,
        tables: AppliedTables | None = None,
        *,
        purpose: Purpose = Purpose.LATENTS,
    ) -> Samples:
        attach(self._pipe, schedule, inventory=self.inventory, tables=tables or self._tables_of(schedule))
        watching = contextlib.nullcontext() if recorder is None else recorder.watching(self._pipe.scheduler)
        try:
            with watching:
                samples = self._workload.run(
                    fidelity, schedule.n_steps, purpose, timeout_s=timeout_s, meter=self._meter
                )
            return replace(samples, usage=policy_usage(self._pipe))
        finally:
            remove(self._pipe)

    def _tables_of(self, schedule: Schedule) -> AppliedTables:
        return AppliedTables.of(schedule, self.condition, self.tables.of(schedule))

    def _time(self, schedule: Schedule, fidelity: Fidelity) -> RunCost:
        """What an image takes in one pipeline call over the first batch."""
        n = min(self._preset.batch_size, len(fidelity.prompts))
        return self._run(schedule, fidelity.first(n), None, purpose=Purpose.TIMED).cost

    def _limit(self, default: RunCost, fidelity: Fidelity) -> float:
        if self._timeout_s is not None:
            return self._timeout_s
        return max(60.0, 20.0 * default.ms / 1000.0 * len(fidelity.prompts))
