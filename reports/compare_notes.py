"""What a reader of a comparison must know first: which values count, what differs, what the axes mean."""

from collections.abc import Sequence

from autotune.reports.comparison import Comparison
from autotune.reports.contender import Contender
from autotune.reports.point import HELD_OUT
from autotune.reports.tables import Row
from autotune.reports.text_table import TextTable
from autotune.spaces.error_scale import error_scale
from autotune.spaces.front import record_constraints, record_objectives
from autotune.spaces.study_record import StudyRecord

_UNTOLD = ("inventory_hash", "revision", "prediction", "start_timestep", "noise_schedule", "scheduler_class")
"""Fields of a condition that follow from others, or say little to people."""

FIELD = "condition/field"
"""The key of a row's own name in the table of what differs; its other keys are names of studies, without a slash."""


def notes(comparison: Comparison) -> tuple[str, ...]:
    """Sentences on the values that count and on what the contenders share, the most important first."""
    found = [_measured_on(comparison)]
    if not comparison.by_family:
        records = [c.record for c in comparison.contenders]
        found += [*_rival_notes(comparison), *_objective_notes(records), *_condition_notes(comparison)]
    found.append(comparison.words.axes)
    return tuple(found)


def condition_table(comparison: Comparison) -> TextTable | None:
    """The fields in which the conditions, objectives and constraints of the studies differ; None where none does."""
    records = [c.record for c in comparison.contenders]
    told = [_told(record) for record in records]
    rows: list[Row] = []
    for field in told[0]:
        values = [facts[field] for facts in told]
        if len(set(values)) > 1:
            rows.append({FIELD: field.replace("_", " "), **{r.name: v for r, v in zip(records, values, strict=True)}})
    if comparison.by_family or not rows:
        return None
    columns = {FIELD: "", **{record.name: record.name for record in records}}
    return TextTable(name="conditions", title="What differs", columns=columns, rows=rows)


def _told(record: StudyRecord) -> dict[str, str]:
    facts: dict[str, object] = {k: v for k, v in record.condition.to_json().items() if k not in _UNTOLD}
    facts["scheduler_config"] = ", ".join(f"{name} {value}" for name, value in record.condition.scheduler_config or ())
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in record.condition.versions)
    facts["objectives"] = ", ".join(record_objectives(record))
    facts["constraints"] = ", ".join(map(str, record_constraints(record))) or "none"
    return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in facts.items()}


def _measured_on(comparison: Comparison) -> str:
    first = comparison.contenders[0]
    if comparison.by_family:
        n_prompts = f"{first.n_prompts} {first.scale.units}"
        if first.source == HELD_OUT:
            return f"Held-out values of every member of every family's own front, on {n_prompts}."
        return (
            f"Values of the {n_prompts} that the search chose by, which flatter all families alike, with single "
            f"timings: only what stood on the common front was measured again on held-out {first.scale.units}."
        )
    return " ".join(_members_note(contender) for contender in comparison.contenders)


def _members_note(contender: Contender) -> str:
    n, total, units = len(contender.points), contender.n_front, contender.scale.units
    if contender.source != HELD_OUT:
        return (
            f"{contender.name} has no held-out values: its {n} members stand at those of the {units} that the search "
            "chose by, which flatter."
        )
    left = f"; the other {total - n} are left out" if n < total else ""
    on = f"{contender.n_prompts} {units}"
    return f"{contender.name}: held-out values of {n} of {total} front members, on {on}{left}."


def _rival_notes(comparison: Comparison) -> list[str]:
    found, seen_again = [], []
    for contender in comparison.contenders:
        if not contender.rivals:
            found.append(f"{contender.name} has no fewer-steps run to be held against.")
        elif contender.rival_source != contender.source:
            seen_again.append(f"{contender.n_verified} of {len(contender.rivals)} of {contender.name}")
    if seen_again:
        found.append(
            f"Of the best fewer-steps runs, held-out values have {', '.join(seen_again)}. So they stand at the values "
            f"of the calibration {comparison.words.units}, which flatter them, and the gain over them is of such "
            "values on both sides."
        )
    return found


def _objective_notes(records: Sequence[StudyRecord]) -> list[str]:
    found = []
    for record in records:
        objectives = record_objectives(record)
        missing = [name for name in ("latency", error_scale(record).metric) if name not in objectives]
        if missing:
            found.append(
                f"{record.name} minimised {', '.join(objectives)}: its front was not chosen by "
                f"{' and '.join(missing)}, by which it is compared here."
            )
    return found


def _condition_notes(comparison: Comparison) -> list[str]:
    found = []
    records = [contender.record for contender in comparison.contenders]
    conditions = {record.condition.hash for record in records}
    if len(conditions) > 1:
        found.append(
            "The conditions differ (see the table): speed-ups and hypervolumes are each study's against its own "
            f"default run{comparison.words.own}."
        )
    if len({record.condition.device for record in records}) > 1:
        found.append("The devices differ: milliseconds say as much about them as about the schedules.")
    units = comparison.words.units
    keys = [contender.prompts_key for contender in comparison.contenders]
    if len(set(keys)) > len(conditions):
        found.append(f"Studies under one condition were measured on different {units}, which differ in difficulty.")
    if None in keys or len(set(keys)) == len(keys):
        found.append(f"No two studies share condition and {units}, so no difference of theirs has a paired interval.")
    return found
