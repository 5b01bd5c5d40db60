"""A comparison in rows: the tables that people see, one JSON object, one row per member."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

from autotune.reports.column_table import column_rows, column_table, pick_table
from autotune.reports.compare_notes import condition_table, notes
from autotune.reports.comparison import Comparison, difference_table, hypervolume_table
from autotune.reports.equal_levels import equal_quality_table, equal_speed_table
from autotune.reports.point import CALIBRATION
from autotune.reports.tables import Row, candidate_row
from autotune.reports.text_table import TextTable
from autotune.spaces.ablation import Removal
from autotune.spaces.study_record import StudyRecord

Removals = Mapping[str, Sequence[Removal]]
"""What was measured of front members less one column each, by study."""


def comparison_tables(comparison: Comparison, removals: Removals, *, absolute: bool = False) -> list[TextTable]:
    """The tables in the order in which they are shown, those without rows left out."""
    tables = [
        condition_table(comparison),
        hypervolume_table(comparison),
        difference_table(comparison),
        equal_quality_table(comparison, absolute=absolute),
        equal_speed_table(comparison, absolute=absolute),
    ]
    for record in _records(comparison):
        found = removals.get(record.name, ())
        tables += [column_table(record, found), pick_table(record, found)]
    return [table for table in tables if table is not None and table.rows]


def comparison_json(comparison: Comparison, removals: Removals) -> dict[str, object]:
    """Everything by name: notes, members, and the rows of each table in full precision."""
    tables = {table.name: list(table.rows) for table in comparison_tables(comparison, {})}
    columns = {record.name: column_rows(record, removals.get(record.name, ())) for record in _records(comparison)}
    columns = {name: rows for name, rows in columns.items() if rows}
    return {"notes": list(notes(comparison)), "members": member_rows(comparison), **tables, "columns": columns}


def member_rows(comparison: Comparison) -> list[Row]:
    """One row per member of every front and per fewer-steps run that it is held against.

    `front` is the contender, `role` is `member` or `fewer-steps`; `relative_deviation` is over the default run's, None
    where that was not measured; of a policy `relative_failures` is. The other keys are those of `autotune front
    --format json`, less the picks.
    """
    rows: list[Row] = []
    for contender in comparison.contenders:
        for role, points in (("member", contender.points), ("fewer-steps", contender.rivals)):
            for point in points:
                candidate = point.candidate
                if point.source == CALIBRATION:  # whatever else is known of it
                    candidate = replace(candidate, held_out=None)
                row = {k: v for k, v in candidate_row(candidate, []).items() if k != "picks"}
                place: Row = {"front": contender.name, "role": role, "study": contender.record.name}
                scale = contender.default_error(point.source)
                relative = None if scale is None else point.error / scale
                is_share = contender.scale.is_share
                place |= {"relative_latency": point.cost, "relative_deviation": None if is_share else relative}
                rows.append(place | ({"relative_failures": relative} if is_share else {}) | row)
    return rows


def members_csv(comparison: Comparison) -> str:
    """`member_rows` as CSV: full precision, each interval as two columns at the end."""
    rows = member_rows(comparison)
    buffer = io.StringIO()
    plain = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "intervals"]
    with_interval = sorted({name for row in rows for name in row["intervals"]})  # type: ignore[attr-defined]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*plain, *(f"{name}_{end}" for name in with_interval for end in ("low", "high"))])
    for row in rows:
        ends = [row["intervals"].get(name, (None, None)) for name in with_interval]  # type: ignore[attr-defined]
        writer.writerow([*(row.get(name) for name in plain), *(end for pair in ends for end in pair)])
    return buffer.getvalue()


def _records(comparison: Comparison) -> list[StudyRecord]:
    return list({c.record.name: c.record for c in comparison.contenders}.values())
