"""Where a study's figures come from, and what went wrong on the way, as rows for tables."""

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.spaces.evaluation import Failure
from autotune.spaces.study_record import StudyRecord

Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """Failures of one kind and reason: how many, of which families, and the first few candidates' labels."""

    kind: str
    reason: str
    count: int
    families: tuple[str, ...]
    examples: tuple[str, ...]


def failure_rows(record: StudyRecord) -> tuple[FailureRow, ...]:
    """Failed evaluations, calibration and held-out, grouped by kind and reason; the most frequent first."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for candidate in record.candidates:
        for evaluation, suffix in ((candidate.calibration, ""), (candidate.held_out, " (held-out)")):
            if evaluation is not None and isinstance(evaluation.outcome, Failure):
                key = (str(evaluation.outcome.kind), evaluation.outcome.reason)
                groups.setdefault(key, []).append((candidate.family, candidate.label + suffix))
    rows = [
        FailureRow(
            kind=kind.replace("_", " "),
            reason=reason,
            count=len(found),
            families=tuple(sorted({family for family, _ in found})),
            examples=tuple(label for _, label in found[:3]),
        )
        for (kind, reason), found in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.count, row.kind, row.reason)))


def provenance_sections(record: StudyRecord) -> tuple[tuple[str, Rows], ...]:
    """Titled (name, value) rows: the study, its settings, the condition, the library versions, the machine."""
    condition = {k: v for k, v in record.condition.to_json().items() if k not in ("versions", "noise_schedule")}
    noise = record.condition.noise_schedule.to_json()
    study = {
        "state": str(record.state),
        "created": record.created,
        "wall_time": duration_text(record.wall_s),
        "candidates": len(record.candidates),
        "denoiser": f"{record.inventory.denoiser_class}, {len(record.inventory)} cacheable sites",
    }
    sections = (
        ("Study", _flat(study)),
        ("Settings", _flat(dict(sorted(record.settings.items())))),
        ("Condition", _flat(condition | {"noise_schedule": noise, "condition_hash": record.condition.hash})),
        ("Library versions", _flat(dict(sorted(record.condition.versions)))),
        ("Machine and code", _flat(dict(sorted(record.provenance.items())))),
    )
    return tuple((title, rows) for title, rows in sections if rows)


def duration_text(seconds: float) -> str:
    """Seconds as people read them: `48 s`, `12 min 3 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _flat(data: Mapping[str, object], prefix: str = "") -> Rows:
    rows: list[tuple[str, str]] = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            rows += _flat(dict(sorted(value.items())), f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((prefix + name, ", ".join(map(str, value)) or "none"))
        else:
            rows.append((prefix + name, "none" if value is None else str(value)))
    return tuple(rows)
