"""Bringing a database to the tables of this version of the package: Alembic in process, one transaction."""

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from autotune.spaces.errors import StorageError
from autotune.storage.location import Location
from autotune.storage.tables import Base

HEAD = "0004"
"""Newest revision in `migrations/versions`; a database that has it is opened without importing Alembic."""

VERSION_TABLE = "autotune_version"
"""Not Alembic's default name, so that a PostgreSQL database may be shared with another program that uses Alembic."""

_LOCK = 0x6175746F  # any number that every version of this package agrees on


def upgrade(engine: Engine, location: Location, target: str = HEAD) -> str | None:
    """Create or upgrade the tables, whole or not at all; two processes may do so at the same time.

    Args:
        engine: an engine whose transactions are for writing, so that an unwritable database is found here.
        location: named in errors.
        target: the revision to bring the tables to; an older one is for tests.

    Returns:
        The revision that the database had; None if it was new.

    Raises:
        StorageError: the database was made by a newer version, or by another program.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        stored = stored_revision(connection)
        if stored == target:
            return stored
        if stored is None:
            _refuse_foreign(connection, location)
        _run_revisions(connection, stored, location, target)
        return stored


def stored_revision(connection: Connection) -> str | None:
    """The revision of the database, None if it has no tables of ours yet."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def _refuse_foreign(connection: Connection, location: Location) -> None:
    tables = set(inspect(connection).get_table_names())
    if location.path is None:
        tables &= set(Base.metadata.tables)
    if tables:
        raise StorageError(
            f"the database {location.shown} must be new or made by autotune; it holds tables of another program "
            f"({', '.join(sorted(tables)[:5])}): choose another one"
        )


def _run_revisions(connection: Connection, stored: str | None, location: Location, target: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if stored is not None and stored not in known:
        raise StorageError(
            f"the database {location.shown} must have a revision up to {HEAD}; it has {stored}, "
            "made by a newer version: pip install --upgrade diffusion-autotune"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, target)
