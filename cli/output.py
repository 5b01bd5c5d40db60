"""Printing: tables for people, JSON and CSV for programs."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum


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
        names = list(rows[0]) if rows else list(columns)
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[_flat(row.get(name)) for name in names] for row in rows])
    else:
        print_table(rows, columns)


def print_table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> None:
    """Print rows as a plain table, as wide as its content, so that it survives a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns.values(), box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*[cell(row.get(name)) for name in columns])
    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)


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
