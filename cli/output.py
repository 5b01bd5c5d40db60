"""Printing: tables for people, JSON and CSV for programs."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from autotune.reports.text_table import TextTable


class Format(StrEnum):
    """How a command prints its rows."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def print_rows(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str], form: Format) -> None:
    """Print rows: `columns` maps a key to its heading in the table; JSON and CSV carry every key."""
    if form is Format.JSON:
        print(json.dumps(rows, indent=1))
    elif form is Format.CSV:
        names = list(dict.fromkeys(name for row in rows for name in row)) or list(columns)
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[_flat(row.get(name)) for name in names] for row in rows])
    else:
        print_table(rows, columns)


def print_table(
    rows: Sequence[Mapping[str, object]], columns: Mapping[str, str], *, optional: Sequence[str] = ()
) -> None:
    """Print rows as a plain table: 200 columns wide where it goes to a file, else as wide as the terminal.

    Of the `optional` columns, the first ones are left out where the terminal is too narrow, and all that are empty.
    """
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    empty = {name for name in optional if all(row.get(name) is None for row in rows)}
    shown = {name: heading for name, heading in columns.items() if name not in empty}
    for name in ("", *optional):
        shown.pop(name, None)
        table = _make_table(rows, shown)
        if console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width:
            break
    console.print(table)


def print_tables(tables: "Sequence[TextTable]") -> None:
    """Print tables with their titles and notes."""
    for table in tables:
        print(f"\n{table.title}")
        for note in table.notes:
            print(note)
        if table.rows:
            print_table(table.texts(), table.columns)


def _make_table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, heading in columns.items():
        cells = [row.get(name) for row in rows]
        is_number = any(isinstance(value, int | float) and not isinstance(value, bool) for value in cells)
        is_text = any(len(cell(value)) > 16 for value in cells)
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=not is_text)
    for row in rows:
        table.add_row(*[cell(row.get(name)) for name in columns])
    return table


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {cell(item)}" for name, item in value.items()) or "-"
    return str(value)


def _flat(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict | list) else value
