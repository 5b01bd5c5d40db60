"""Commands that search: run, resume."""

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from autotune.cli import options
from autotune.cli.out_folder import out_folder
from autotune.cli.output import Format
from autotune.cli.studies import FormatOption, StorageOption, StudyArgument, print_front, print_given
from autotune.spaces.granularity import Granularity

if TYPE_CHECKING:
    from autotune.api import Sitting, Study

DEFAULT_OUT = Path("autotune-out")

EXIT_NO_FEASIBLE_POINT = 3
EXIT_INTERRUPTED = 130


class Crew(NamedTuple):
    """How many workers, and on which Ray cluster."""

    workers: int
    ray_address: str | None


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(run)
    app.command()(resume)


def run(
    model: options.Model,
    budget: options.Budget = None,
    evaluations: options.Evaluations = None,
    network_calls: options.NetworkCalls = None,
    cost: options.Cost = None,
    price: options.Price = None,
    workers: options.Workers = 1,
    ray_address: options.RayAddress = None,
    family: options.Family = "joint",
    start: options.Start = None,
    objective: options.Objective = None,
    constraint: options.Constraints = None,
    metric: options.Metrics = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    resolution: options.Resolution = None,
    prompts: options.Prompts = None,
    ladder: options.Ladder = True,
    correct: options.Correct = None,
    granularity: options.OfGenes = Granularity.COMPONENTS,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    study: options.NewStudy = None,
    storage: StorageOption = None,
    out: options.Out = DEFAULT_OUT,
    config: options.Config = None,
    form: FormatOption = Format.TABLE,
    quiet: options.Quiet = False,
) -> None:
    """Search the schedules of a model: database, report, files. In Python: autotune.tune(MODEL, budget="2h")."""
    began, limits = time.monotonic(), _limits(budget, evaluations, network_calls, cost, price)

    def search(sitting: "Sitting") -> "Study":
        from autotune import api

        return api.tune(
            model, study=study, storage=storage, sitting=sitting, **limits, start=tuple(start or ()), family=family,
            objectives=objective, constraints=tuple(constraint or ()), metrics=tuple(metric or ()), seed=seed,
            device=device, dtype=dtype, resolution=resolution, steps=steps, guidance=guidance, prompts=prompts,
            ladder=ladder, correct=correct, granularity=granularity,
        )  # fmt: skip

    _search_and_write(
        search, model, began, Crew(workers, ray_address), storage=storage, out=out, form=form, quiet=quiet
    )


def resume(
    study: StudyArgument,
    budget: options.Budget = None,
    evaluations: options.Evaluations = None,
    network_calls: options.NetworkCalls = None,
    cost: options.Cost = None,
    price: options.Price = None,
    workers: options.Workers = 1,
    ray_address: options.RayAddress = None,
    storage: StorageOption = None,
    out: options.Out = DEFAULT_OUT,
    form: FormatOption = Format.TABLE,
    quiet: options.Quiet = False,
) -> None:
    """Go on with a study where it stopped; budgets that are given replace its own, and what it used counts.

    In Python: autotune.resume(STUDY).
    """
    began = time.monotonic()
    limits = _limits(budget, evaluations, network_calls, cost, price)

    def search(sitting: "Sitting") -> "Study":
        from autotune import api

        return api.resume(
            study,
            storage=storage,
            sitting=sitting,
            **limits,
        )

    crew = Crew(workers, ray_address)
    _search_and_write(search, study, began, crew, storage=storage, out=out, form=form, quiet=quiet)


def _limits(
    budget: str | None, evaluations: int | None, network_calls: int | None, cost: float | None, price: float | None
) -> dict[str, Any]:
    return {
        "budget": budget,
        "evaluations": evaluations,
        "network_calls": network_calls,
        "cost": cost,
        "price": price,
    }


def _search_and_write(
    search: "Callable[[Sitting], Study]",
    title: str,
    began: float,
    crew: Crew,
    *,
    storage: str | None,
    out: Path,
    form: Format,
    quiet: bool,
) -> None:
    """Run a study with progress and Ctrl-C, write what came of it, print its front, and exit with its code."""
    from autotune.cli.interrupt import Interrupt
    from autotune.cli.progress import make_progress
    from autotune.spaces.study_record import StudyState

    names: list[str] = []
    display = make_progress(f"autotune {title}", quiet=quiet)

    def begin(name: str) -> None:
        names.append(name)
        interrupt.arm()
        display.on_study(name)

    try:
        with out_folder(out):
            with Interrupt(display.on_interrupt) as interrupt, display:
                from autotune.api import Sitting  # seconds of imports, which the display and Ctrl-C shall not wait for

                study = search(
                    Sitting(
                        start=began,
                        progress=display,
                        interrupt=interrupt,
                        on_start=begin,
                        workers=crew.workers,
                        ray_address=crew.ray_address,
                        writes_report=True,
                    )
                )
            report = _write_results(study, out / study.name)
    except KeyboardInterrupt:
        how = f"go on with   {_command('resume', names[0], storage)}" if names else "no study had begun"
        _say(f"stopped; {how}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    print_front(study.record, form)
    if form is Format.TABLE:
        print_given(study.record)
    interrupted = study.record.state is StudyState.INTERRUPTED
    _say(f"study {study.name}: {len(study.record.candidates)} candidates in {study.record.wall_s:.0f} s")
    _say(f"report   {report}")
    if study.front:
        _say(f"in production   autotune.apply(pipe, {str(out / study.name / 'balanced.schedule.json')!r})")
    else:
        _say("no candidate meets the constraints")
    if interrupted:
        _say(f"interrupted; go on with   {_command('resume', study.name, storage)}")
        raise typer.Exit(EXIT_INTERRUPTED)
    if not study.front:
        raise typer.Exit(EXIT_NO_FEASIBLE_POINT)


def _write_results(study: "Study", folder: Path) -> Path:
    """Write the report and a schedule file per pick; the report's path."""
    from autotune.spaces.front import PICKS

    report = study.report(folder)
    for pick in PICKS if study.front else ():
        study.export(folder / f"{pick}.schedule.json", pick)
    return report


def _command(name: str, study: str, storage: str | None) -> str:
    words = ["autotune", name, study] + ([] if storage is None else ["--storage", storage])
    return shlex.join(words)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
