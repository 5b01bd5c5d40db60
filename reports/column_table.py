"""What each column of a study's schedules is worth: front members as they are, and measured again without it.

It is a replay, not a search without the column: what a search would have found instead is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.reports.contender import measured_resamples
from autotune.reports.point import volume
from autotune.reports.tables import Row, intervals
from autotune.reports.text_table import TextTable
from autotune.spaces.ablation import COLUMNS, Removal
from autotune.spaces.error_scale import error_scale
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import PICKS, pick, study_front
from autotune.spaces.hypervolume_interval import Array
from autotune.spaces.statistics import percentile_interval
from autotune.spaces.study_record import StudyRecord

TITLES = {
    "solver": "time and solver, with start and fits",
    "time": "times, with start",
    "start": "analytic first step",
    "factors": "factors of its own",
    "fit": "compensation and correction",
    "cache": "cache or policy",
    "cache correction": "correction of what the cache hands out",
    "precision": "quantization",
    "guidance": "guidance",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replay:
    """The members that were replayed, by schedule hash, and what became of them without a column."""

    members: dict[str, Measurement]
    removals: dict[tuple[str, str], Removal]

    def rest(self, member: str, column: str) -> tuple[str, Measurement | None]:
        """`same`, `left out`, `open`, `failed` or `measured`, and the measurement without the column if any."""
        removal = self.removals.get((member, column))
        if removal is None:
            return "same", self.members[member]
        if removal.reason:
            return "left out", None
        if removal.evaluation is None:
            return "open", None
        measurement = removal.evaluation.measurement
        return ("failed" if measurement is None else "measured"), measurement


def column_rows(record: StudyRecord, removals: Sequence[Removal]) -> list[Row]:
    """One row per column: the hypervolume of the replayed members with it and without, on held-out values.

    `used` of `members` have the column. Those whose replay is not done, or means nothing, count on neither side; their
    number is `left_out` and `reasons` says why. One that fails without its column adds nothing to the hypervolume
    `without`. [] where nothing was replayed.
    """
    replay = _replay(record, removals)
    return [_column_row(replay, column) for column in COLUMNS] if replay.members else []


def column_table(record: StudyRecord, removals: Sequence[Removal]) -> TextTable | None:
    """`column_rows` for people; None where nothing was replayed."""
    rows = column_rows(record, removals)
    if not rows:
        return None
    notes = [
        f"{record.name}: {rows[0]['members']} front members, measured again without one column each, which the "
        "pipeline then does in its own way at the same number of steps. A replay of what was found, not another search."
    ]
    reasons = {f"{row['title']}: {reason}" for row in rows for reason in row["reasons"]}  # type: ignore[attr-defined]
    notes += [f"Left out of {reason}." for reason in sorted(reasons)]
    unused = [str(row["title"]) for row in rows if not row["used"]]
    if unused:
        notes.append(f"None of them uses {' or '.join(unused)}.")
    rows = [row for row in rows if row["used"]]
    columns = {"title": "column", "used": "used by", "left_out": "left out", "with": "hypervolume with",
               "without": "without", "worth": "worth"}  # fmt: skip
    if not any(row["left_out"] for row in rows):
        del columns["left_out"]
    title = f"What each column is worth: {record.name}"
    return TextTable(name="columns", title=title, columns=columns, rows=rows, notes=notes)


def pick_table(record: StudyRecord, removals: Sequence[Removal]) -> TextTable | None:
    """Each pick with and without each of its columns; None where none of them was replayed."""
    replay, metric = _replay(record, removals), error_scale(record).metric
    names: dict[str, list[str]] = {}
    for name, candidate in pick(study_front(record), record).items():
        names.setdefault(candidate.schedule_hash, []).append(name)
    rows: list[Row] = []
    for member, picks in sorted(names.items(), key=lambda item: PICKS.index(item[1][0])):
        for column in COLUMNS if member in replay.members else ():
            state, rest = replay.rest(member, column)
            if state in ("same", "left out", "open"):
                continue
            own = replay.members[member]
            figures = {**_figures(own, metric, ""), **(_figures(rest, metric, "without_") if rest is not None else {})}
            found = {name: list(ends) for name, ends in intervals(own, ("speedup", metric)).items()}
            if rest is not None:
                ends_without = intervals(rest, ("speedup", metric)).items()
                found |= {f"without_{name}": list(ends) for name, ends in ends_without}
            what = TITLES[column] + (" (fails)" if rest is None else "")
            rows.append({"pick": " = ".join(picks), "title": what, **figures, "intervals": found})
    columns = {"pick": "pick", "title": "column", "speedup": "speed-up", "without_speedup": "without the column",
               metric: metric, f"without_{metric}": "without the column"}  # fmt: skip
    title = f"Picks without a column: {record.name}"
    return TextTable(name="pick_columns", title=title, columns=columns, rows=rows) if rows else None


def _replay(record: StudyRecord, removals: Sequence[Removal]) -> _Replay:
    wanted = {removal.member for removal in removals}
    members = {
        c.schedule_hash: c.held_out.measurement
        for c in study_front(record)
        if c.schedule_hash in wanted and c.held_out is not None and c.held_out.measurement is not None
    }
    return _Replay(members=members, removals={(r.member, r.column): r for r in removals if r.member in members})


def _column_row(replay: _Replay, column: str) -> Row:
    states = {member: replay.rest(member, column) for member in replay.members}
    out = [member for member, (state, _) in states.items() if state in ("left out", "open")]
    kept = [member for member in replay.members if member not in out]
    reasons = {
        replay.removals[member, column].reason or "not measured yet; `autotune ablate` goes on" for member in out
    }
    before = [replay.members[member] for member in kept]
    after = [rest for member in kept if (rest := states[member][1]) is not None]
    row: Row = {
        "column": column,
        "title": TITLES[column],
        "members": len(replay.members),
        "used": sum(state != "same" for state, _ in states.values()),
        "left_out": len(out),
        "reasons": sorted(reasons),
        "with": _volume(before),
        "without": _volume(after),
    }
    difference = _resamples(before) - _resamples(after)
    enough = min((m.n_prompts for m in (*before, *after)), default=0) > 1
    found = {"worth": list(percentile_interval(difference))} if enough else {}
    return row | {"worth": _volume(before) - _volume(after), "intervals": found}


def _volume(measurements: Sequence[Measurement]) -> float:
    return volume([(m.relative_latency, m.error) for m in measurements])


def _resamples(measurements: Sequence[Measurement]) -> Array:
    return measured_resamples(measurements)


def _figures(measurement: Measurement, metric: str, prefix: str) -> Row:
    return {
        f"{prefix}speedup": 1.0 / measurement.relative_latency,
        f"{prefix}{metric}": measurement.mean(metric),
    }
