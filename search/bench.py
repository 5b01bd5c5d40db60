"""A schedule file is measured again, on seeds that no study uses, beside the strongest rivals of a few cheap ones."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from autotune.evaluators.file_check import check_file
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.load import LoadedModel, load_model, resolve_model
from autotune.evaluators.presets import Preset, read_prompts
from autotune.evaluators.quantization_table import read_quantization
from autotune.evaluators.real_kernels import Kernel, use_kernels
from autotune.evaluators.reference import ArtifactCache
from autotune.evaluators.rewards import asked_metrics
from autotune.evaluators.run_numbers import check_run_numbers
from autotune.evaluators.worker import Worker
from autotune.search.fewer_steps import OWN_SAMPLER, RECIPES, Recipe, recipe_schedule
from autotune.search.searcher import SearchContext
from autotune.search.worker_setup import load_instruments
from autotune.spaces.bench_result import (
    BenchResult,
    Contestant,
    affordable_calls,
    is_no_slower,
    probe_calls,
    rivals_limit,
)
from autotune.spaces.condition import Condition
from autotune.spaces.error_scale import error_text
from autotune.spaces.errors import EvaluatorError, ModelNotFoundError, UsageError
from autotune.spaces.evaluation import SUCCESS, Failure, Fidelity, Measurement
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file
from autotune.storage.database import Database

FIRST_SEED = 1_000_000_000
"""First seed of the bench with seed 0: far above those of calibration and of held-out prompts."""

BLOCK = 1_000_000
"""Seeds between two benches."""

REPEATS = 5

N_RECIPES = 3
"""Recipes that are measured beside the pipeline's own sampler: the first of `RECIPES`, which small budgets try too."""

LOWER_TRIES = 2
"""How often one call less is tried where every rival so far is slower than the schedule."""

MAX_SEED = 1_000_000

OnMeasured = Callable[[str], None]
"""Told in a line what was measured, and how it did."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How to measure a file again.

    `model` is what `--model` takes, None the model of the file; `prompts` a text file with a prompt per line, None the
    held-out prompts of the model's preset; `n_prompts` how many of them, the first ones. `seed` chooses a block of
    fresh seeds: prompt i is drawn from the noise of seed `FIRST_SEED + BLOCK * seed + i`. Each schedule is timed
    `repeats` times, in turn with the default run. `metrics` are rewards or energy, as `--metric` takes them. `dtype`
    None is that of the file. `kernels`, `int8` or `float8`, measures a quantized schedule with torchao's kernels, too.
    `storage` keeps the reference runs, as those of studies.

    Raises:
        UsageError: a number is out of range, or a metric is not known.
    """

    model: str | None = None
    prompts: str | Path | None = None
    n_prompts: int | None = None
    seed: int = 0
    repeats: int = REPEATS
    metrics: Sequence[str] = ()
    kernels: str | None = None
    device: str = "auto"
    dtype: str | None = None
    storage: str | None = None

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError(f"repeats must be at least 1; got {self.repeats}")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"seed must be in 0 .. {MAX_SEED}; got {self.seed}")
        if self.n_prompts is not None and self.n_prompts < 1:
            raise UsageError(f"the number of prompts must be at least 1; got {self.n_prompts}")
        if self.kernels is not None and self.kernels not in get_args(Kernel):
            raise UsageError(f"kernels must be one of {', '.join(get_args(Kernel))}; got {self.kernels!r}")
        asked_metrics(self.metrics, (), ())


def bench_file(
    source: str | Path | ScheduleFile,
    options: BenchOptions,
    *,
    adopted: LoadedModel | None = None,
    on_measured: OnMeasured = lambda line: None,
) -> BenchResult:
    """Measure a schedule file again, in the size, steps and guidance of its condition; `adopted` is a user's pipeline.

    Raises:
        ScheduleError: the file can't be read, breaks a rule, or belongs to another model or sampler.
        UsageError: the prompts, the device or the dtype are wrong, or the numbers of the file's condition; or there are
            no such kernels here, or nothing for them to do.
        ModelNotFoundError: the weights can't be had, or those of a reward.
        EvaluatorError: the schedule or the default run can't be measured here.
    """
    file = source if isinstance(source, ScheduleFile) else load_schedule_file(source)
    preset = _resolve(options.model, file.condition) if adopted is None else adopted.preset
    _adapt(preset, file.condition)  # wrong numbers are said before the model loads
    if options.kernels is not None and (adopted is not None or file.schedule.quantization is None):
        raise UsageError(
            "kernels take the place of a schedule's quantization in a pipeline that is loaded for them; got "
            + ("a file without one: autotune quantize makes one" if adopted is None else "a pipeline: leave it out")
        )
    fidelity = bench_fidelity(preset, options)
    with Database.open(options.storage) as database:
        on_measured("loading the model")
        model = adopted or _load(options, preset, file.condition)
        worker, other, with_kernels = _worker(options, model, file, database.artifacts), None, ""
        if options.kernels is not None:  # what it lacks is said before minutes of runs
            on_measured(f"loading the model for {options.kernels} kernels")
            model = _load(options, preset, file.condition)
            other = _worker(options, model, file, database.artifacts, beside=worker)
            with_kernels = _give_kernels(model.pipe, file, cast(Kernel, options.kernels))
        on_measured(f"converged runs of {len(fidelity.prompts)} prompts")
        worker.reference(fidelity)
        bench = _Bench(worker, fidelity, options.repeats, on_measured)
        default = bench.must(
            f"default run, {worker.condition.n_steps} steps", Schedule(n_steps=worker.condition.n_steps)
        )
        schedule = bench.must(str(file.provenance.get("label") or "the schedule"), file.schedule)
        kernels = None
        if other is not None:
            kernels = bench.must(f"the same with {with_kernels}", file.schedule, other)
            unknown = dataclasses.replace(kernels.measurement, weight_bytes=None, bit_operations=None)  # torchao's own
            kernels = dataclasses.replace(kernels, measurement=unknown)
        rivals = bench.rivals(rivals_limit(file, schedule, kernels))
    return BenchResult(
        source="a schedule" if isinstance(source, ScheduleFile) else Path(source).name,
        file=file,
        condition=worker.condition,
        fidelity=fidelity,
        prompts_from=f"the held-out prompts of {preset.name}" if options.prompts is None else str(options.prompts),
        repeats=options.repeats,
        default=default,
        schedule=schedule,
        kernels=kernels,
        rivals=rivals,
        failures=tuple(bench.failures),
    )


def bench_fidelity(preset: Preset, options: BenchOptions) -> Fidelity:
    """The prompts, each once, with seeds that no study uses; of a policy's tasks every line is an episode.

    Raises:
        UsageError: the file can't be read or holds no prompt, or there are fewer prompts than asked for.
    """
    path = preset.held_out_prompts if options.prompts is None else Path(options.prompts)
    lines = read_prompts(path)
    prompts = lines if preset.quality == SUCCESS else tuple(dict.fromkeys(lines))
    first = FIRST_SEED + BLOCK * options.seed
    fidelity = Fidelity(name="bench", prompts=prompts, seeds=tuple(range(first, first + len(prompts))))
    return fidelity if options.n_prompts is None else fidelity.first(options.n_prompts)


class _Bench:
    """Measures one schedule after the other; `failures` says what could not be."""

    def __init__(self, worker: Worker, fidelity: Fidelity, repeats: int, on_measured: OnMeasured) -> None:
        self._worker, self._fidelity, self._repeats, self._on_measured = worker, fidelity, repeats, on_measured
        self._context = SearchContext(
            condition=worker.condition, inventory=worker.inventory, own_timesteps=worker.own_timesteps
        )
        self._seen: set[tuple[Recipe, int]] = set()
        self.failures: list[str] = []

    def must(self, label: str, schedule: Schedule, worker: Worker | None = None) -> Contestant:
        """What came of a schedule without which there is nothing to say, on another worker if it is given."""
        measured = self._measure(label, schedule, worker)
        if measured is None:
            raise EvaluatorError(f"the bench needs a measurement of its schedule; {self.failures[-1]}")
        return measured

    def rivals(self, limit: Measurement) -> tuple[Contestant, ...]:
        """Own sampler and recipes in as many calls as the latency of a schedule affords; fewer where all are slower.

        A first run of the own sampler, in calls as if the network took all the time, tells what calls cost.
        """
        n_default, share = self._context.n_calls, limit.relative_latency
        n_calls = probe_calls(limit, n_default)
        measured = self._try(OWN_SAMPLER, n_calls)
        if measured and not is_no_slower(measured[0].measurement, limit):
            probe = measured[0].measurement
            n_calls = affordable_calls(share, n_default, n_calls, probe.relative_latency)
        for n in range(n_calls, max(0, n_calls - 1 - LOWER_TRIES), -1):
            for recipe in (OWN_SAMPLER, *RECIPES[:N_RECIPES]):
                measured += self._try(recipe, n)
            if any(is_no_slower(one.measurement, limit) for one in measured):
                break
        return tuple(measured)

    def _try(self, recipe: Recipe, n_calls: int) -> list[Contestant]:
        """The recipe in at most so many calls; [] where there is none, or it was tried, or it fails."""
        n_steps = n_calls
        while recipe == OWN_SAMPLER and n_steps > 1 and len(self._worker.own_timesteps(n_steps)) > n_calls:
            n_steps -= 1
        schedule = recipe_schedule(recipe, self._context, n_steps)
        if schedule is None or (recipe, n_steps) in self._seen:
            return []
        self._seen.add((recipe, n_steps))
        measured = self._measure(recipe.label(n_steps), canonical_schedule(schedule, self._worker.inventory))
        return [] if measured is None else [measured]

    def _measure(self, label: str, schedule: Schedule, worker: Worker | None = None) -> Contestant | None:
        outcome = (worker or self._worker).score(schedule, self._fidelity, repeats=self._repeats)
        if isinstance(outcome, Failure):
            self.failures.append(f"{label} failed: {outcome.kind}, {outcome.reason}")
            self._on_measured(self.failures[-1])
            return None
        self._on_measured(f"{label}: latency {outcome.relative_latency:.3f}x, {error_text(outcome)}")
        return Contestant(label=label, measurement=outcome)


def _resolve(model: str | None, condition: Condition) -> Preset:
    """The preset of the model; that of the file may have been a folder, of which it knows the name only."""
    try:
        return resolve_model(condition.model if model is None else model)
    except ModelNotFoundError as error:
        if model is not None:
            raise
        raise ModelNotFoundError(
            f"the file names its model, and that is not here; name it with --model: {error}"
        ) from error


def _load(options: BenchOptions, preset: Preset, condition: Condition) -> LoadedModel:
    """The model; its dtype is the file's, or by the preset where that has the same."""
    dtype = options.dtype
    if dtype is None and condition.dtype != preset.dtype:
        dtype = condition.dtype
    return load_model(options.model or condition.model, device=options.device, dtype=dtype)


def _worker(
    options: BenchOptions,
    model: LoadedModel,
    file: ScheduleFile,
    artifacts: ArtifactCache,
    beside: Worker | None = None,
) -> Worker:
    """A worker of the model, checked against the file; `beside` is one that it is compared with."""
    instruments = load_instruments(options.metrics, options.device)
    check_file(model.pipe, file, list_inventory(model.pipe), model.pipe.scheduler)
    made = Worker(
        dataclasses.replace(model, preset=_adapt(model.preset, file.condition)),
        artifacts=artifacts,
        rewards=instruments.rewards,
        meter=instruments.meter,
        beside=beside,
    )
    for digest, table in file.tables.items():
        made.tables.keep(digest, table)
    return made


def _give_kernels(pipe: Any, file: ScheduleFile, kernel: Kernel) -> str:
    """Give the pipeline kernels; in how many of the layers that the file quantizes, the others being left in floats."""
    changed = use_kernels(pipe, file, kernel)
    quantization = read_quantization(file.schedule, file.condition, file.tables)
    assert quantization is not None  # or there would be no kernels
    return f"{kernel} kernels in {len(changed)} of {len(quantization.layers)} layers"


def _adapt(preset: Preset, condition: Condition) -> Preset:
    """The preset with the default run of the condition."""
    for size, own in ((condition.height, preset.height), (condition.width, preset.width)):
        resolution = None if size == own else size  # a policy's own are no pixels
        check_run_numbers(steps=condition.n_steps, resolution=resolution, guidance=condition.guidance_scale)
    return dataclasses.replace(
        preset,
        height=condition.height,
        width=condition.width,
        n_steps=condition.n_steps,
        guidance_scale=condition.guidance_scale,
    )
