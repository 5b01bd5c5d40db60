"""What the user chose for a study, checked, and in a form that the database keeps."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.evaluators.presets import PRESETS, Preset, read_prompts
from autotune.evaluators.rewards import asked_metrics
from autotune.evaluators.run_numbers import check_run_numbers
from autotune.search.budget import Budget, Spent, parse_duration
from autotune.search.families import FAMILIES, check_family
from autotune.search.ladder import LadderSettings
from autotune.search.study_plan import StudyPlan
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.given_schedule import given_from_json
from autotune.spaces.granularity import Granularity
from autotune.spaces.objective import Constraint, asks_for_precision, parse_constraint, parse_objectives

DEFAULT_FAMILY = "joint"

EXTRAS_FROM = Spent(wall_s=600.0, network_calls=20_000, worker_s=600.0)
"""Budgets of less leave out a family's extra objectives, which take a cost model."""

HELD_OUT_SEED = 1_000_000
"""First seed of the held-out prompts; those of the calibration count from 0."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user chose for a study; JSON types only, so that the database keeps it and `resume` reads it back.

    `budget` holds `Budget`'s fields. `calibration` and `held_out` hold the prompts themselves, since files change.
    Without `ladder` every candidate is measured on all calibration prompts. With `correct` cache schedules of the front
    are tried corrected, too; None leaves that to the family, and False keeps it from correcting. `given` holds
    `GivenSchedule`s. `metrics` are those to measure besides the usual ones, objectives and limits among them.
    `granularity` is that of the family `ecad`.
    """

    model: str
    family: str
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    seed: int
    budget: Mapping[str, float | int | None]
    device: str
    dtype: str | None
    resolution: int | None
    steps: int | None
    guidance: float | None
    calibration: tuple[str, ...]
    held_out: tuple[str, ...]
    ladder: bool = False
    correct: bool | None = None
    given: tuple[Mapping[str, object], ...] = ()
    metrics: tuple[str, ...] = ()
    granularity: str = Granularity.COMPONENTS.value

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"seed must be at least 0; got {self.seed}")
        if self.granularity not in list(Granularity):
            raise UsageError(f"granularity must be one of {', '.join(Granularity)}; got {self.granularity!r}")
        if self.granularity != Granularity.COMPONENTS and self.family != "ecad":
            raise UsageError(
                f"granularity is what a gene of the family ecad decides; got {self.granularity} for {self.family}: "
                f"choose --family ecad, or leave it out"
            )

    def plan(self, name: str) -> StudyPlan:
        """The study plan of these settings."""
        return StudyPlan(
            name=name,
            family=self.family,
            calibration=_fidelity("calibration", self.calibration, 0),
            held_out=_fidelity("held_out", self.held_out, HELD_OUT_SEED),
            budget=Budget(**self.budget),  # type: ignore[arg-type]
            objectives=self.objectives,
            constraints=tuple(parse_constraint(text) for text in self.constraints),
            seed=self.seed,
            correct=self.correct,
            ladder=LadderSettings() if self.ladder else LadderSettings(first=max(2, len(self.calibration))),
            given=tuple((given.label, given.schedule) for given in map(given_from_json, self.given)),
            granularity=Granularity(self.granularity),
        )

    def adapt(self, preset: Preset) -> Preset:
        """The preset with the size, steps and guidance that the user asked for in place of its own."""
        changes: dict[str, Any] = {}
        if self.resolution is not None:
            changes |= {"height": self.resolution, "width": self.resolution}
        if self.steps is not None:
            changes["n_steps"] = self.steps
        if self.guidance is not None:
            changes["guidance_scale"] = self.guidance
        return dataclasses.replace(preset, **changes)


def make_settings(
    model: str,
    preset: Preset,
    *,
    budget: str | None = None,
    evaluations: int | None = None,
    network_calls: int | None = None,
    cost: float | None = None,
    price: float | None = None,
    family: str = DEFAULT_FAMILY,
    objectives: str | None = None,
    constraints: Sequence[str] = (),
    metrics: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    dtype: str | None = None,
    resolution: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    prompts: str | Path | None = None,
    ladder: bool = True,
    correct: bool | None = None,
    granularity: str = Granularity.COMPONENTS.value,
) -> Settings:
    """Checked settings of a study.

    `budget` is a wall time such as `2h`, `cost` money at `price` per worker and hour; several budgets may be given, the
    first one to be used up ends the search. `objectives` are by default latency, modelled where a limit is on weights
    or bit operations, the preset's quality and the family's extra ones. Without `ladder` no candidate is stopped before
    it has seen all prompts. With `correct` cache schedules of the front are tried once more, corrected. `prompts` is a
    text file, a prompt per line, of which every second one is held out; one that comes again counts once, but for a
    policy. `metrics` are measured besides what is asked for anyway, such as `clip-score`, `hps=FOLDER` or `energy`.
    `granularity` is what a gene of `ecad` decides: steps, groups, blocks, leaves, components or branches.

    Raises:
        UsageError: an argument is wrong; the message names it.
    """
    check_family(family)
    check_run_numbers(steps=steps, resolution=resolution, guidance=guidance)
    limit = make_budget(budget, evaluations, network_calls, cost, price)
    limits = [parse_constraint(text) for text in constraints]
    names = _objectives(objectives or _usual_objectives(preset, family, limit, limits), limits)
    calibration, held_out = _split_prompts(preset, prompts)
    return Settings(
        model=_absolute(model), family=family, objectives=names, constraints=tuple(constraints), seed=seed,
        budget=dataclasses.asdict(limit), device=device, dtype=dtype, resolution=resolution, steps=steps,
        guidance=guidance, calibration=calibration, held_out=held_out, ladder=ladder, correct=correct,
        metrics=tuple(str(choice.absolute()) for choice in asked_metrics(metrics, names, limits)),
        granularity=str(granularity),
    )  # fmt: skip


def _objectives(text: str, limits: Sequence[Constraint]) -> tuple[str, ...]:
    """The objectives; a UsageError if schedules of low precision would be judged by how long their emulation takes."""
    objectives = parse_objectives(text)
    timed = [name for name in (*objectives, *(limit.metric for limit in limits)) if name in ("latency", "latency_ms")]
    if timed and asks_for_precision(objectives, limits):
        raise UsageError(
            f"{timed[0]} times low precision as it is emulated in floating point, slower, and not in real kernels; "
            "where weights or bit operations are an objective or a limit, name modelled-latency or macs in its place"
        )
    return objectives


def _absolute(model: str) -> str:
    """A model's folder by its whole path, so that `resume` finds it from another working folder."""
    return str(Path(model).resolve()) if model not in PRESETS and Path(model).is_dir() else model


def _usual_objectives(preset: Preset, family: str, budget: Budget, limits: Sequence[Constraint]) -> str:
    speed = "modelled-latency" if asks_for_precision((), limits) else "latency"
    extra = FAMILIES[family].extra_objectives if budget.used_fraction(EXTRAS_FROM) <= 1.0 else ()
    return ",".join((speed, preset.quality, *extra))


def make_budget(
    wall: str | None, evaluations: int | None, network_calls: int | None, cost: float | None, price: float | None
) -> Budget:
    """The budget of the command line's options; None for no limit.

    Raises:
        UsageError: there is no limit at all, or one is wrong.
    """
    wall_s = None if wall is None else parse_duration(wall)
    return Budget(wall_s=wall_s, evaluations=evaluations, network_calls=network_calls, cost=cost, price_per_hour=price)


def _split_prompts(preset: Preset, path: str | Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Prompts to search with, and prompts to hold out."""
    if path is None:
        calibration = read_prompts(preset.calibration_prompts)[: preset.n_calibration]
        return calibration, read_prompts(preset.held_out_prompts)
    lines = read_prompts(Path(path))
    if not preset.is_policy:
        lines = tuple(dict.fromkeys(lines))  # none may be searched with and held out
    if len(lines) < 2:
        raise UsageError(
            f"a prompts file needs at least two different prompts, one of them to hold out; got {len(lines)} in {path}"
        )
    return lines[0::2], lines[1::2]


def settings_from_json(data: Mapping[str, object]) -> Settings:
    """The settings that a study was created with."""
    values: dict[str, Any] = {"given": (), "metrics": ()} | dict(data)
    for name in ("objectives", "constraints", "calibration", "held_out", "given", "metrics"):
        values[name] = tuple(values[name])
    return Settings(**values)


def _fidelity(name: str, prompts: tuple[str, ...], first_seed: int) -> Fidelity:
    return Fidelity(name=name, prompts=prompts, seeds=tuple(range(first_seed, first_seed + len(prompts))))
