"""Inserting rows that may be there already."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Insert
from sqlalchemy.dialects import postgresql, sqlite

from autotune.storage.tables import Base


def insert_missing(connection: Connection, table: type[Base], rows: Sequence[dict[str, Any]]) -> int:
    """Insert the rows that break no unique constraint; returns how many that were.

    All rows name the same columns. Give them in one order in every process: on PostgreSQL a row waits for another
    transaction that inserts the same, and two that wait for each other are a deadlock.
    """
    if not rows:
        return 0
    return connection.execute(_statement(connection.dialect.name, table), list(rows)).rowcount


@cache
def _statement(dialect: str, table: type[Base]) -> Insert:
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
