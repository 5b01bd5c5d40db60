"""Fronts beside each other: what is compared, and their hypervolumes with their differences."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.reports.compare_wording import CompareWording, compare_wording
from autotune.reports.contender import Contender, family_contenders, point_resamples, study_contenders
from autotune.reports.point import HELD_OUT, volume
from autotune.reports.tables import Row
from autotune.reports.text_table import TextTable
from autotune.spaces.error_scale import common_scale
from autotune.spaces.hypervolume_interval import difference_interval
from autotune.spaces.statistics import percentile_interval
from autotune.spaces.study_record import StudyRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Contenders, and whether they are the families of one study."""

    contenders: tuple[Contender, ...]
    by_family: bool

    @property
    def title(self) -> str:
        """What is compared, in a few words."""
        names = [contender.record.name for contender in self.contenders]
        return f"families of {names[0]}" if self.by_family else ", ".join(names)

    @property
    def words(self) -> CompareWording:
        """What its errors are called: those that all contenders have in common."""
        return compare_wording(common_scale(contender.scale for contender in self.contenders))


def compare(records: Sequence[StudyRecord]) -> Comparison:
    """Compare the fronts of studies; of one alone, its families with each other and with all together.

    Raises:
        UsageError: a study is given twice, or has no front.
    """
    if len(records) == 1:
        return Comparison(contenders=family_contenders(records[0]), by_family=True)
    return Comparison(contenders=study_contenders(records), by_family=False)


def hypervolume_table(comparison: Comparison) -> TextTable:
    """Each front's hypervolume with its interval, beside that of the same study's fewer-steps runs."""
    rows: list[Row] = []
    for contender in comparison.contenders:
        resamples = contender.resamples
        row: Row = {
            "name": contender.name,
            "model": contender.record.condition.model,
            "members": len(contender.points),
            "front": contender.n_front,
            "source": _source_text(contender),
            "prompts": contender.n_prompts,
            "hypervolume": contender.hypervolume,
        }
        found: dict[str, object] = {}
        if contender.n_prompts > 1:
            found["hypervolume"] = list(percentile_interval(resamples))
        if contender.rivals:
            sides = (contender.against, contender.rivals)
            ours, theirs = (volume([(p.cost, p.error) for p in points]) for points in sides)
            row |= {"fewer_steps": theirs, "gain": ours - theirs}
            if contender.rivals[0].measurement.n_prompts > 1:
                first, second = map(point_resamples, sides)
                found |= {"fewer_steps": list(percentile_interval(second))}
                found |= {"gain": list(difference_interval(first, second))}
        row |= {"fewer_steps_members": len(contender.rivals), "fewer_steps_source": contender.rival_source}
        rows.append(row | {"intervals": found})
    words = comparison.words
    columns = {"name": "front", "model": "model", "members": "members", "source": "measured on", "prompts": words.units,
               "hypervolume": "hypervolume", "fewer_steps": "fewer steps", "gain": "gain over them"}  # fmt: skip
    if comparison.by_family:
        columns = {key: title for key, title in columns.items() if key not in ("model", "fewer_steps", "gain")}
    note = (
        f"Fraction of the box from the default run's latency and {words.box[0]} down to no latency and {words.box[1]}, "
        f"{words.on_log}. Brackets: 95 % over {words.units}, and over timed runs where a member has several."
    )
    return TextTable(name="hypervolume", title="Hypervolume", columns=columns, rows=rows, notes=(note,))


def difference_table(comparison: Comparison) -> TextTable:
    """The difference in hypervolume of every two fronts that were measured on the same prompts, paired by prompt."""
    rows: list[Row] = []
    for first, second in itertools.combinations(comparison.contenders, 2):
        if first.prompts_key is None or first.prompts_key != second.prompts_key:
            continue
        row: Row = {
            "first": first.name,
            "second": second.name,
            "difference": first.hypervolume - second.hypervolume,
        }
        paired = first.points and second.points and first.n_prompts == second.n_prompts > 1
        found = {"difference": list(difference_interval(first.resamples, second.resamples))} if paired else {}
        rows.append(row | {"intervals": found})
    columns = {"first": "front", "second": "less that of", "difference": "hypervolume"}
    unit = comparison.words.unit
    note = f"Same condition, prompts and seeds. The interval is of the difference itself, {unit} by {unit}."
    return TextTable(name="differences", title="Differences in hypervolume", columns=columns, rows=rows, notes=(note,))


def _source_text(contender: Contender) -> str:
    return "held-out" if contender.source == HELD_OUT else "calibration"
