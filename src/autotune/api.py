"""The Python face: what the commands do, in a notebook.

What loads torch is imported in the functions, after the check of a study's options: a wrong one is said at once.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.evaluators.pool import WorkerPool
from autotune.evaluators.presets import Preset
from autotune.evaluators.resolve import resolve_model
from autotune.reports.bench_table import bench_json
from autotune.reports.column_table import column_rows
from autotune.reports.export import find_candidate, make_schedule_file
from autotune.reports.foreign_export import write_for
from autotune.reports.given_table import given_rows
from autotune.reports.report import write_report
from autotune.reports.tables import front_rows, refuted_rows
from autotune.search.ablation import N_MEMBERS, OnRemoval, ablate_front, ablated_members
from autotune.search.affordable_prompts import with_affordable_prompts
from autotune.search.budget import Spent
from autotune.search.clock import SystemClock
from autotune.search.families import check_family
from autotune.search.given import FAMILY as GIVEN
from autotune.search.heartbeat import Heartbeat
from autotune.search.settings import Settings, make_budget, make_settings, settings_from_json
from autotune.search.sitting import Sitting as Sitting
from autotune.search.study import StudyLoop
from autotune.search.study_name import free_name
from autotune.spaces.errors import UsageError
from autotune.spaces.schedule_file import ScheduleFile, save_schedule_file
from autotune.spaces.study_record import DEFAULT_TIMESTEPS, StudyRecord
from autotune.storage.database import Database

if TYPE_CHECKING:
    from autotune.evaluators.load import LoadedModel


@dataclass(frozen=True)
class Study:
    """A study of the database: its front, and what to do with it. `storage` is where it lies, None for the default."""

    record: StudyRecord
    storage: str | None = None

    @property
    def name(self) -> str:
        """The name under which the database keeps it."""
        return self.record.name

    @property
    def front(self) -> list[dict[str, object]]:
        """One dict per member of the front, fastest first; the keys are those of `autotune front --format json`."""
        return front_rows(self.record)

    @property
    def refuted(self) -> list[dict[str, object]]:
        """Dicts as those of `front`, of what the held-out values have taken off it."""
        return refuted_rows(self.record)

    @property
    def given(self) -> list[dict[str, object]]:
        """What became of the schedules that it was given to start from (`autotune.reports.given_table`)."""
        return given_rows(self.record)

    def export(self, path: str | Path, pick: str = "balanced", form: str = "autotune") -> None:
        """Write the schedule file of a pick: quality, balanced, fast, a limit, or the start of a schedule hash.

        A limit such as `latency<=0.5x` gives the best within half of the default run's latency, one such as `psnr>=30`
        the cheapest that is as good. With `form` cache-dit, smoothcache or diffusers it is a file for another tool;
        what that can't say is a warning.

        Raises:
            UsageError: nothing fits `pick`, or there is no such `form`.
            ScheduleError: the other tool's format can't express the schedule.
            StorageError: the file can't be written; nothing is changed then.
        """
        candidate = find_candidate(self.record, pick)
        if form == "autotune":
            with Database.open(self.storage) as database:
                save_schedule_file(path, make_schedule_file(self.record, candidate, database.artifacts.load))
            return
        for sentence in write_for(form, candidate.schedule, self.record.inventory, Path(path)):
            warnings.warn(sentence, stacklevel=2)

    def report(self, folder: str | Path) -> Path:
        """Write the report into a folder, which is made if it is missing; the path of its HTML file."""
        with Database.open(self.storage) as database:
            return write_report(self.record, database.artifacts.load, Path(folder), self.storage)


def tune(
    pipe_or_name: Any,
    *,
    study: str | None = None,
    storage: str | None = None,
    sitting: Sitting | None = None,
    start: Sequence[str | Path | ScheduleFile] = (),
    **options: Any,
) -> Study:
    """Search the schedules of a model, and keep everything in the database.

    Args:
        pipe_or_name: a diffusers pipeline, which is left as it was, or what `--model` takes.
        study: a new study's name; made up if None.
        storage: a database URL or SQLite file; None is the one in the user's data folder.
        sitting: clock, onlooker and interrupt of this process.
        start: schedule files to try first, or their contents; those of another step count, resolution or checkpoint are
            re-timed, and `Study.given` compares. Their own steps, size and guidance have no effect on the study.
        options: the arguments of `autotune.search.settings.make_settings` after the model, such as `budget="10m"`.

    Raises:
        UsageError: an argument is wrong.
        ScheduleError: a file to start from breaks a rule, or belongs to another kind of model.
        ModelNotFoundError: the weights can't be had.
        StudyExistsError: the name is taken.
        StorageError: the database can't be opened.

    Example:
        >>> study = tune("mini-flux", budget="10m")     # doctest: +SKIP
        >>> study.export("flux.schedule.json")          # doctest: +SKIP
    """
    sitting = sitting or Sitting()
    adopted = None if isinstance(pipe_or_name, str) else _adopted(pipe_or_name)
    model_name = pipe_or_name if adopted is None else adopted.preset.name
    preset = resolve_model(pipe_or_name) if adopted is None else adopted.preset
    settings = make_settings(model_name, preset, **options)
    settings = _with_given(settings, start, preset, adopted)
    with Database.open(storage) as database:
        name = free_name(database, study, settings.model)
        with _pool(settings, database, storage, sitting, adopted) as pool:
            from autotune.evaluators.hardware import describe_machine

            check_family(settings.family, unconverging=None if pool.converges else settings.model)
            if options.get("prompts") is None:
                now = SystemClock(sitting.start).now
                settings = with_affordable_prompts(settings, pool, database, now, sitting.progress)
            database.create_study(
                name,
                settings=dataclasses.asdict(settings),
                provenance=describe_machine()
                | {
                    "workers": pool.n_workers,
                    "protocol": pool.protocol,
                    DEFAULT_TIMESTEPS: list(pool.own_timesteps(pool.condition.n_steps)),
                },
                condition=pool.condition,
                inventory=pool.inventory,
            )
            sitting.on_start(name)
            _run(name, settings, pool, database, sitting, Spent())
        return Study(database.load_study(name), storage)


def resume(
    study: str,
    *,
    pipe: Any = None,
    storage: str | None = None,
    sitting: Sitting | None = None,
    budget: str | None = None,
    evaluations: int | None = None,
    network_calls: int | None = None,
    cost: float | None = None,
    price: float | None = None,
) -> Study:
    """Go on with a study where it stopped; what was measured is not measured again.

    Budgets that are given replace the study's own; what it has used so far counts. `pipe` is the pipeline that the
    study began with, where that was one of the user's own.

    Raises:
        UsageError: a budget is wrong, or the model or the machine is not the one that the study began with.
        StudyBusyError: another process runs the study.
        StorageError: no study has this name.
    """
    sitting = sitting or Sitting()
    # The beat begins with the claim: a large model takes longer to load than a silent owner is believed in.
    with Database.open(storage, must_exist=storage is not None) as database, Heartbeat(database):
        database.claim_study(study)
        record = database.load_study(study)
        settings = settings_from_json(record.settings)
        if any(limit is not None for limit in (budget, evaluations, network_calls, cost, price)):
            limits = make_budget(budget, evaluations, network_calls, cost, price)
            settings = dataclasses.replace(settings, budget=dataclasses.asdict(limits))
        with _pool(settings, database, storage, sitting, _adopted(pipe), record) as pool:
            sitting.on_start(study)
            _run(study, settings, pool, database, sitting, Spent(wall_s=record.wall_s, worker_s=record.device_s))
        return Study(database.load_study(study), storage)


def ablate(
    study: str,
    *,
    members: int | None = None,
    pipe: Any = None,
    storage: str | None = None,
    on_removal: OnRemoval = lambda done, total, what: None,
) -> list[dict[str, object]]:
    """Measure front members of a study again, each less one column at a time; what each column is worth.

    The rows are those of `autotune.reports.column_table.column_rows`, which `autotune compare` shows too. What was
    measured is kept, and not measured again.

    Raises:
        UsageError: the number is not positive, no member has held-out values, or model or machine are not the study's.
        StorageError: no study has this name.
    """
    with Database.open(storage, must_exist=storage is not None) as database:
        record = database.load_study(study)
        chosen = ablated_members(record, N_MEMBERS if members is None else members)
        settings = settings_from_json(record.settings)
        with _pool(settings, database, storage, Sitting(), _adopted(pipe), record) as pool:
            removals = ablate_front(record, chosen, settings.plan(study), pool, database, on_removal)
        return column_rows(record, removals)


def bench(file: str | Path | ScheduleFile, *, pipe: Any = None, **options: Any) -> dict[str, object]:
    """Measure a schedule file again on fresh seeds, beside the default run and the strongest cheap rival.

    `options` are those of `BenchOptions`, what comes back is told by `bench_json`; errors are those of `bench_file`.
    """
    from autotune.search.bench import BenchOptions, bench_file

    return bench_json(bench_file(file, BenchOptions(**options), adopted=_adopted(pipe)))


def load_study(study: str, *, storage: str | None = None) -> Study:
    """A study of the database, to read.

    Raises:
        StorageError: no study has this name.
    """
    with Database.open(storage, must_exist=storage is not None) as database:
        return Study(database.load_study(study), storage)


def _with_given(
    settings: Settings, start: Sequence[str | Path | ScheduleFile], preset: Preset, adopted: "LoadedModel | None"
) -> Settings:
    """The settings with the schedules to start from, re-timed for the study's run; no weights are loaded for it."""
    if not start:
        if settings.family == GIVEN:
            raise UsageError("the family `given` needs schedules: name files with --start, or choose another family")
        return settings
    from autotune.evaluators.transfer import transfer_schedule
    from autotune.evaluators.weightless import describe_model

    pipe = describe_model(settings.model).pipe if adopted is None else adopted.pipe
    given = [transfer_schedule(source, pipe, settings.adapt(preset)) for source in start]
    return dataclasses.replace(settings, given=tuple(one.to_json() for one in given))


def _adopted(pipe: Any) -> "LoadedModel | None":
    from autotune.evaluators.user_pipeline import adopt_pipeline

    return None if pipe is None else adopt_pipeline(pipe)


@contextlib.contextmanager
def _pool(
    settings: Settings,
    database: Database,
    storage: str | None,
    sitting: Sitting,
    adopted: "LoadedModel | None",
    record: StudyRecord | None = None,
) -> Iterator[WorkerPool]:
    """The workers of a study; of one that goes on, `record`, they must be under the condition that it began under."""
    from autotune.search.worker_setup import check_condition, make_pool

    workers = make_pool(
        settings, database,
        storage=storage, adopted=adopted, n_workers=sitting.workers, ray_address=sitting.ray_address,
    )  # fmt: skip
    with contextlib.closing(workers) as pool:
        if record is not None:
            check_condition(record, pool.condition, pool.protocol)
        yield pool


def _run(name: str, settings: Settings, pool: WorkerPool, database: Database, sitting: Sitting, used: Spent) -> None:
    clock = SystemClock(sitting.start)
    StudyLoop(
        settings.plan(name),
        pool,
        database,
        clock,
        used=used,
        report_s=sitting.report_s(clock.now()),
        progress=sitting.progress,
        interrupt=sitting.interrupt,
    ).run()
