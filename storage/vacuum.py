"""Giving back the room that nothing needs any more, without disturbing anybody who uses the database."""

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, bindparam, delete, exists, select

from autotune.spaces.evaluation import EvaluationState
from autotune.storage.artifacts import STALE_S
from autotune.storage.connection import storage_errors
from autotune.storage.database import Database
from autotune.storage.leases import parse_owner
from autotune.storage.outcomes import chunks
from autotune.storage.owners import find_owners
from autotune.storage.tables import ArtifactRow, Base, CandidateRow, EvaluationRow, LeaseRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What a vacuum removed, and `notes` on what it left alone and why.

    `n_files` files of artifacts had no name, `n_artifacts` names no intact file; `n_evaluations` were begun and given
    up more than a day ago; `n_leases` belonged to dead owners. `file_bytes` and `database_bytes` are the room on disk.
    """

    n_files: int
    file_bytes: int
    n_artifacts: int
    n_evaluations: int
    n_leases: int
    database_bytes: int
    notes: tuple[str, ...]


def vacuum(database: Database) -> Freed:
    """Remove what nothing refers to and nobody makes, and compact the database.

    Evaluations that are finished, and everything that a study names, stay. Owners on other machines are watched until
    it is known whether they live, for `LEASE_S` seconds at most. An SQLite file that somebody else works with is not
    compacted, since that would hold the other up.

    Raises:
        StorageError: the database can't be used.
    """
    alive, dead = find_owners(database)
    notes: list[str] = []
    n_evaluations, n_leases = database.sessions.write(lambda connection: _remove_dead(connection, dead))
    sizes, n_artifacts = _clean_artifacts(database, notes)
    return Freed(
        n_files=len(sizes),
        file_bytes=sum(sizes),
        n_artifacts=n_artifacts,
        n_evaluations=n_evaluations,
        n_leases=n_leases,
        database_bytes=_compact(database, alive, notes),
        notes=tuple(notes),
    )


def _remove_dead(connection: Connection, dead: set[str]) -> tuple[int, int]:
    """Remove old unfinished evaluations and leases of dead owners; how many of each."""
    old = EvaluationRow.started < datetime.now(UTC) - timedelta(seconds=STALE_S)
    held_out = select(CandidateRow.held_out_key).where(CandidateRow.held_out_key.is_not(None))
    unnamed = ~exists().where(CandidateRow.evaluation_key == EvaluationRow.key) & EvaluationRow.key.not_in(held_out)
    given_up = (EvaluationRow.state == EvaluationState.RUNNING) & old & unnamed
    n_evaluations = connection.execute(delete(EvaluationRow).where(given_up, EvaluationRow.owner.is_(None))).rowcount
    n_leases = 0
    for chunk in chunks(sorted(dead)):
        theirs = given_up & EvaluationRow.owner.in_(chunk)
        n_evaluations += connection.execute(delete(EvaluationRow).where(theirs)).rowcount
        n_leases += connection.execute(delete(LeaseRow).where(LeaseRow.owner.in_(chunk))).rowcount
    return n_evaluations, n_leases


def _clean_artifacts(database: Database, notes: list[str]) -> tuple[list[int], int]:
    """Remove names without an intact file, and files without a name: the sizes of these, and the number of those."""
    location, artifacts = database.location, database.artifacts
    if location.is_shared:
        notes.append(
            f"the artifacts in {location.artifacts} were left alone, since other databases may keep theirs there: "
            "name a folder of this database with ?artifacts=FOLDER"
        )
        return [], 0
    query = select(ArtifactRow.name, ArtifactRow.sha256)
    rows = database.sessions.read(lambda connection: connection.execute(query).all())
    broken = [{"of": name, "digest": digest} for name, digest in rows if artifacts.read(digest) is None]
    same = (ArtifactRow.name == bindparam("of")) & (ArtifactRow.sha256 == bindparam("digest"))

    def remove(connection: Connection) -> tuple[int, set[str]]:
        n_removed = connection.execute(delete(ArtifactRow).where(same), broken).rowcount if broken else 0
        return n_removed, set(connection.scalars(select(ArtifactRow.sha256)))

    n_artifacts, named = database.sessions.write(remove)
    return artifacts.remove_unnamed(named), n_artifacts


def _compact(database: Database, alive: set[str], notes: list[str]) -> int:
    """Let the database give back its unused room; how many bytes its file shrank by, 0 for a server."""
    path = database.location.path
    if path is not None and alive:
        users = ", ".join(parse_owner(owner).shown for owner in sorted(alive))
        notes.append(f"the database was not compacted, since others work with it: {users}")
        return 0
    engine = database.sessions.engine
    with storage_errors(database.location):
        if path is None:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                for name in Base.metadata.tables:
                    connection.exec_driver_sql(f'VACUUM "{name}"')
            return 0
        before = _size(path)
        with closing(engine.raw_connection()) as raw:  # outside of any transaction
            for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                raw.cursor().execute(statement)
        return max(0, before - _size(path))


def _size(path: Path) -> int:
    log = path.with_name(path.name + "-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)
