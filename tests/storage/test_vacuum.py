"""A vacuum removes what nothing needs any more, and nothing else."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from autotune.spaces.evaluation import Measurement
from autotune.storage.database import Database
from autotune.storage.leases import LEASE_S
from autotune.storage.vacuum import Freed, vacuum

from .ticker import Ticker

Query = Callable[..., list[tuple[object, ...]]]

DAY_S = 24 * 3600.0

ELSEWHERE = "elsewhere/0/12/abc"

NOTHING = {"n_files": 0, "file_bytes": 0, "n_artifacts": 0, "n_evaluations": 0, "n_leases": 0}


def removed(freed: Freed) -> dict[str, int]:
    return {name: getattr(freed, name) for name in NOTHING}


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture
def cleaner(database: Database, url: str) -> Iterator[Database]:
    """The same database, opened by somebody else, for whom a lease runs out soon."""
    with Database.open(url, monotonic=Ticker(LEASE_S / 4)) as cleaner:
        yield cleaner


def test_there_is_nothing_to_remove_from_a_database_in_order(
    database: Database, cleaner: Database, start: Callable[..., str], add: Callable[[int, str], str],
    make_measurement: Callable[[float], Measurement],
) -> None:  # fmt: skip
    start("k0")
    add(0, "k0")
    database.finish_evaluations({"k0": make_measurement(0)})
    database.artifacts.save("a", b"data", "x")
    for path in database.artifacts.folder.glob("*/*"):
        age(path, 2 * DAY_S)
    record = database.load_study("flux")
    database.release_leases()
    freed = vacuum(cleaner)
    assert (removed(freed), freed.notes) == (NOTHING, ())
    assert database.load_study("flux") == record
    assert database.artifacts.load("a") == b"data"


def test_files_without_a_name_are_removed_a_day_later(database: Database, cleaner: Database) -> None:
    for content in (b"old", b"older", b"young", b"kept"):
        database.artifacts.save(content.decode(), content, "x")
    with database.sessions.writing() as connection:
        connection.exec_driver_sql("DELETE FROM artifact WHERE name <> 'kept'")
    for path in database.artifacts.folder.glob("*/*"):
        age(path, 0 if path.read_bytes() == b"young" else 2 * DAY_S)
    leftover, foreign = (next(database.artifacts.folder.glob("*")) / name for name in (".half.tmp", "notes.txt"))
    for path in (leftover, foreign):
        path.write_bytes(b"1234567")
        age(path, 2 * DAY_S)
    assert removed(vacuum(cleaner)) == NOTHING | {"n_files": 3, "file_bytes": 3 + 5 + 7}
    left = {path.read_bytes() for path in database.artifacts.folder.glob("*/*")}
    assert left == {b"young", b"kept", b"1234567"}
    assert foreign.exists()
    assert database.artifacts.load("kept") == b"kept"


def test_saving_again_what_has_no_name_keeps_it_from_a_vacuum(database: Database, cleaner: Database) -> None:
    database.artifacts.save("a", b"data", "x")
    (path,) = database.artifacts.folder.glob("*/*")
    age(path, 2 * DAY_S)
    database.artifacts.put(path.parent.name + path.name, b"data")
    with database.sessions.writing() as connection:
        connection.exec_driver_sql("DELETE FROM artifact")
    assert removed(vacuum(cleaner)) == NOTHING
    assert path.exists()


def test_names_of_lost_and_damaged_files_are_removed(database: Database, cleaner: Database, query: Query) -> None:
    for content in (b"lost", b"damaged", b"kept"):
        database.artifacts.save(content.decode(), content, "x")
    for path in database.artifacts.folder.glob("*/*"):
        if path.read_bytes() == b"lost":
            path.unlink()
        elif path.read_bytes() == b"damaged":
            path.write_bytes(b"xamaged")
    assert removed(vacuum(cleaner)) == NOTHING | {"n_artifacts": 2}
    assert query("SELECT name FROM artifact") == [("kept",)]


def begin(query: Query, key: str, *, owner: str | None, hours: float) -> None:
    """Let a running evaluation have been begun so long ago, by this owner."""
    started = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=hours)
    query(
        "UPDATE evaluation SET owner = :owner, started = :started WHERE key = :key",
        key=key, owner=owner, started=str(started),
    )  # fmt: skip


def test_evaluations_that_were_given_up_are_removed_unless_they_are_young_or_a_candidate_names_them(
    database: Database, cleaner: Database, url: str, start: Callable[..., str], add: Callable[[int, str], str],
    query: Query,
) -> None:  # fmt: skip
    keys = ("free", "young", "dead", "dead and young", "alive", "named", "held out")
    digests = {key: start(key, i) for i, key in enumerate(keys)}
    add(5, "named")
    add(6, "other")
    database.set_held_out("flux", schedule_hash=digests["held out"], key="held out")
    database.release_leases()
    query("INSERT INTO lease (owner, beat) VALUES (:owner, 3)", owner=ELSEWHERE)
    for key, owner, hours in (
        ("free", None, 25), ("young", None, 23), ("dead", ELSEWHERE, 25), ("dead and young", ELSEWHERE, 23),
        ("alive", database.owner, 25), ("named", None, 25), ("held out", None, 25),
    ):  # fmt: skip
        begin(query, key, owner=owner, hours=hours)
    database.renew_lease()
    freed = vacuum(cleaner)
    assert removed(freed) == NOTHING | {"n_evaluations": 2, "n_leases": 1}
    assert {key for (key,) in query("SELECT key FROM evaluation")} == set(keys) - {"free", "dead"}
    assert query("SELECT owner FROM lease") == [(database.owner,)]
    if url.startswith("sqlite"):
        (note,) = freed.notes
        assert note.startswith("the database was not compacted, since others work with it: process ")


def test_a_driver_goes_on_while_the_database_is_vacuumed(
    database: Database, cleaner: Database, study: str, start: Callable[..., str], add: Callable[[int, str], str],
    make_measurement: Callable[[float], Measurement], query: Query,
) -> None:  # fmt: skip
    start("k0")
    begin(query, "k0", owner=database.owner, hours=48)
    database.renew_lease()
    assert removed(vacuum(cleaner)) == NOTHING
    assert database.finish_evaluations({"k0": make_measurement(0)})["k0"].outcome == make_measurement(0)
    add(0, "k0")
    assert len(database.load_study(study).candidates) == 1
    assert query("SELECT owner FROM study") == [(database.owner,)]


def test_an_sqlite_file_shrinks_when_nobody_else_uses_it(sqlite_database: Database) -> None:
    with sqlite_database.sessions.writing() as connection:
        connection.exec_driver_sql(
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 20000)"
            " INSERT INTO artifact SELECT 'name ' || i, 'h', 'k', 0, '2026-01-01 00:00:00' FROM c"
        )
    freed = vacuum(sqlite_database)
    assert removed(freed) == NOTHING | {"n_artifacts": 20000}
    assert freed.database_bytes > 1_000_000
    path = sqlite_database.location.path
    assert path is not None
    assert path.stat().st_size < 300_000


def test_artifacts_that_other_databases_may_share_are_left_alone(
    database: Database, cleaner: Database, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if url.startswith("sqlite"):
        pytest.skip("an SQLite database has a folder of its own")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    plain = url.replace(f"artifacts={str(tmp_path / 'autotune.db.artifacts').replace('/', '%2F')}", "").replace(
        "?&", "?"
    )
    with Database.open(plain) as shared:
        assert shared.artifacts.folder == tmp_path / "home" / "autotune" / "artifacts"
        shared.artifacts.save("a", b"data", "x")
        (path,) = shared.artifacts.folder.glob("*/*")
        path.unlink()
        freed = vacuum(shared)
    assert removed(freed) == NOTHING
    assert "were left alone, since other databases may keep theirs there: name a folder" in freed.notes[0]
