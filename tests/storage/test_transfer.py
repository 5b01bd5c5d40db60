"""Studies go from one database to another and back, whole, whatever kind of database it is."""

import contextlib
import dataclasses
import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError, StudyBusyError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.spaces.study_record import StudyState
from autotune.storage.database import Claim, Database
from autotune.storage.exporting import export
from autotune.storage.importing import import_file

from .big_study import fill_study
from .postgres import PostgresServer

Query = Callable[..., list[tuple[object, ...]]]
MakeMeasurement = Callable[[float], Measurement]


@pytest.fixture
def filled(
    database: Database, start: Callable[..., str], add: Callable[[int, str], str], make_measurement: MakeMeasurement,
    condition: Condition, inventory: Inventory, query: Query,
) -> Database:  # fmt: skip
    """A database with a study of everything, another study, and an evaluation that belongs to none."""
    hashes = [start(f"k{i}", i) for i in range(5)]
    for i in range(4):
        add(i, f"k{i}")  # 3 stays in flight
    start("alone", 7)
    held_out = Fidelity(name="held_out", prompts=("c",), seeds=(1,))
    start("h0", 0, held_out)
    start("h1", 1, held_out)
    database.return_evaluations(["k1"], "worker lost")
    start("k1", 1)
    measured = dataclasses.replace(make_measurement(9), quality={"deviation": (0.2,)})
    database.finish_evaluations(
        {
            "k1": Failure(kind=FailureKind.OUT_OF_MEMORY, reason="two\nlines, Bär"),
            "k0": make_measurement(0),
            "k2": make_measurement(1 / 3),
            "alone": dataclasses.replace(make_measurement(4), energy_j=(2.5, 2.25), baseline_energy_j=(5.0, 5.5)),
            "h0": measured,
        }
    )
    database.set_held_out("flux", schedule_hash=hashes[0], key="h0")
    database.set_held_out("flux", schedule_hash=hashes[1], key="h1")  # never finished
    database.set_image("flux", schedule_hash=hashes[0], artifact="sheet-0")
    database.update_study("flux", state=StudyState.INTERRUPTED, wall_s=12.25, device_s=20.5)
    database.create_study("other", settings={}, provenance={}, condition=condition, inventory=inventory)
    database.artifacts.save("sheet-0", b"a picture", "image/png")
    database.artifacts.save(f"reference/64/{condition.hash}/abc", b"latents", "reference")
    database.artifacts.save("reference/64/of another condition/abc", b"others", "reference")
    database.release_leases()
    return database


@pytest.fixture
def file(filled: Database, tmp_path: Path) -> Path:
    path = tmp_path / "studies.jsonl"
    export(filled, path, artifacts=True)
    return path


def kinds(path: Path) -> list[str]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line).get("kind", "header") for line in data.splitlines()]


def other_kind(url: str, postgres: PostgresServer, folder: Path) -> contextlib.AbstractContextManager[str]:
    if url.startswith("sqlite"):
        return postgres.new_database(folder / "artifacts")
    return contextlib.nullcontext(str(folder / "other.db"))


def test_there_and_back_through_the_other_kind_of_database_is_the_same_file_and_the_same_records(
    filled: Database, url: str, file: Path, postgres: PostgresServer, tmp_path: Path
) -> None:
    record = filled.load_study("flux")
    assert len(record.candidates) == 3
    with other_kind(url, postgres, tmp_path) as there, Database.open(there) as other:
        new = import_file(other, file)
        assert new == {"condition": 1, "prompt_set": 2, "schedule": 4, "evaluation": 5, "study": 2, "candidate": 3,
                       "artifact": 3}  # fmt: skip
        assert other.load_study("flux") == record
        assert other.load_study("other") == filled.load_study("other")
        assert other.list_studies() == filled.list_studies()
        assert other.artifacts.load("sheet-0") == b"a picture"
        export(other, tmp_path / "again.jsonl", artifacts=True)
        assert (tmp_path / "again.jsonl").read_bytes() == file.read_bytes()
    back_url = str(tmp_path / "back.db") if url.startswith("sqlite") else None
    if back_url is not None:
        with Database.open(back_url) as back:
            import_file(back, tmp_path / "again.jsonl")
            assert back.load_study("flux") == record


def test_a_second_import_changes_nothing(filled: Database, file: Path, tmp_path: Path) -> None:
    with Database.open(str(tmp_path / "new.db")) as new:
        import_file(new, file)
        export(new, tmp_path / "once.jsonl", artifacts=True)
        assert set(import_file(new, file).values()) == {0}
        export(new, tmp_path / "twice.jsonl", artifacts=True)
    assert (tmp_path / "once.jsonl").read_bytes() == (tmp_path / "twice.jsonl").read_bytes() == file.read_bytes()
    assert set(import_file(filled, file).values()) == {0}  # nor does an import where it came from


def test_the_lines_come_in_the_order_in_which_they_refer_to_each_other(file: Path) -> None:
    found = kinds(file)
    assert list(dict.fromkeys(found)) == [
        "header", "condition", "prompt_set", "schedule", "evaluation", "study", "candidate", "artifact", "end",
    ]  # fmt: skip
    assert json.loads(file.read_text().splitlines()[0]) == {
        "format": "diffusion-autotune-export", "version": 1, "revision": "0004",
    }  # fmt: skip
    assert json.loads(file.read_text().splitlines()[-1]) == {"kind": "end", "n_lines": len(found) - 2}


def test_a_compressed_file_holds_the_same_lines(filled: Database, file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "studies.jsonl.gz"
    counted = export(filled, packed, artifacts=True)
    assert gzip.decompress(packed.read_bytes()) == file.read_bytes()
    assert sum(counted.values()) == len(kinds(packed)) - 2
    with Database.open(str(tmp_path / "new.db")) as new:
        import_file(new, packed)
        assert new.load_study("flux") == filled.load_study("flux")


def test_a_chosen_study_comes_with_what_belongs_to_it_and_nothing_else(filled: Database, tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    counted = export(filled, path, ["flux"], artifacts=True)
    assert counted == {"condition": 1, "prompt_set": 2, "schedule": 3, "evaluation": 4, "study": 1, "candidate": 3,
                       "artifact": 2}  # fmt: skip
    with Database.open(str(tmp_path / "new.db")) as new:
        import_file(new, path)
        assert new.load_study("flux") == filled.load_study("flux")
        assert [s.name for s in new.list_studies()] == ["flux"]
        assert new.find_evaluations(["alone"]) == {}
        export(new, tmp_path / "again.jsonl", ["flux"], artifacts=True)
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()
    assert export(filled, tmp_path / "empty.jsonl", ["other"])["study"] == 1


def test_an_unknown_study_is_refused_and_leaves_no_file(filled: Database, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StorageError, match="none named 'flx': did you mean 'flux'"):
        export(filled, tmp_path / "x.jsonl", ["flx"])
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_can_not_be_written_is_one_clear_error(filled: Database, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere/x\.jsonl could not be written: .*make the folder .*nowhere first"):
        export(filled, tmp_path / "nowhere" / "x.jsonl")


def test_a_file_that_was_there_stays_until_the_new_one_is_whole(filled: Database, tmp_path: Path, query: Query) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("old")
    query("UPDATE study SET wall_s = 1e999" if filled.location.path else "UPDATE study SET wall_s = 'Infinity'")
    with pytest.raises(StorageError, match="must be as autotune wrote them"):
        export(filled, path)
    assert path.read_text() == "old"
    assert list(tmp_path.glob(".x*")) == []


def test_without_contents_a_name_is_taken_over_where_its_file_lies(filled: Database, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    export(filled, path)
    assert b'content"' not in path.read_bytes()
    with Database.open(str(tmp_path / "new.db")) as new:
        assert import_file(new, path)["artifact"] == 0
        assert new.artifacts.load("sheet-0") is None
        shutil.copytree(filled.artifacts.folder, new.artifacts.folder)
        assert import_file(new, path)["artifact"] == 3
        assert new.artifacts.load("sheet-0") == b"a picture"


def test_an_outcome_that_is_here_stays_and_one_that_is_made_here_ends(
    filled: Database, file: Path, tmp_path: Path, start: Callable[..., str], make_measurement: MakeMeasurement,
    condition: Condition, fidelity: Fidelity, make_schedule: Callable[[int], Schedule],
) -> None:  # fmt: skip
    schedules = [make_schedule(i) for i in (0, 2)]
    requests = [
        EvaluationRequest(
            key=key, schedule=made, schedule_hash=schedule_hash(made), condition=condition, fidelity=fidelity
        )
        for key, made in zip(("k0", "k2"), schedules, strict=True)
    ]
    with Database.open(str(tmp_path / "new.db")) as new:
        new.start_evaluations(requests)
        mine = new.finish_evaluations({"k0": make_measurement(77)})["k0"]
        new.release_leases()
        assert import_file(new, file)["evaluation"] == 4
        assert new.find_evaluations(["k0"]) == {"k0": mine}
        theirs = filled.find_evaluations(["k2"])["k2"]
        assert new.start_evaluations(requests)["k2"] == Claim(evaluation=theirs)
        late = new.finish_evaluations({"k2": make_measurement(78)})["k2"]
        assert late == theirs


def test_what_was_lost_is_still_counted(filled: Database, file: Path, tmp_path: Path) -> None:
    with Database.open(str(tmp_path / "new.db")) as new, new.sessions.reading() as connection:
        import_file(new, file)
        found = connection.exec_driver_sql("SELECT n_lost, lost_reason FROM evaluation WHERE key = 'k1'").all()
    assert [tuple(row) for row in found] == [(1, "worker lost")]


def test_news_of_a_study_are_added_and_old_news_change_nothing(
    filled: Database, file: Path, tmp_path: Path, start: Callable[..., str], make_measurement: MakeMeasurement
) -> None:
    with Database.open(str(tmp_path / "new.db")) as new:
        import_file(new, file)
        start("k3", 3)
        filled.finish_evaluations({"k3": make_measurement(3)})
        filled.update_study("flux", state=StudyState.DONE, wall_s=30.0, device_s=40.0)
        filled.set_image("flux", schedule_hash=filled.load_study("flux").candidates[1].schedule_hash, artifact="b")
        export(filled, tmp_path / "later.jsonl", ["flux"])
        assert import_file(new, tmp_path / "later.jsonl")["candidate"] == 1
        assert new.load_study("flux") == filled.load_study("flux")
        assert set(import_file(new, file).values()) == {0}
        assert new.load_study("flux") == filled.load_study("flux")


def test_a_study_under_a_new_name_is_a_copy(filled: Database, file: Path) -> None:
    assert import_file(filled, file, rename={"flux": "copy"})["study"] == 1
    assert filled.load_study("copy") == dataclasses.replace(filled.load_study("flux"), name="copy")
    assert import_file(filled, file, rename={"flux": "copy"})["study"] == 0


def test_a_study_that_somebody_drives_is_not_added_to(
    filled: Database, url: str, file: Path, tmp_path: Path, query: Query
) -> None:
    import_file(filled, file, rename={"flux": "copy"})
    query("DELETE FROM candidate WHERE number = 2 AND study_id = (SELECT id FROM study WHERE name = 'copy')")
    with Database.open(url) as driver:
        driver.claim_study("copy")
        if url.startswith("sqlite"):
            expected: type[Exception] = StorageError
            words = "must have an SQLite database for itself, .*process .* wait for its end"
        else:
            expected, words = StudyBusyError, "'copy' is driven by process"
        with pytest.raises(expected, match=words):
            import_file(filled, file, rename={"flux": "copy"})
    assert import_file(filled, file, rename={"flux": "copy"})["candidate"] == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_memory_of_an_export_does_not_grow_with_the_studies(
    tmp_path: Path, condition: Condition, inventory: Inventory
) -> None:
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from autotune.storage.database import Database\n"
        "from autotune.storage.exporting import export\n"
        "with Database.open(sys.argv[1]) as database:\n"
        "    export(database, Path(sys.argv[2]))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    peaks = []
    for n in (500, 3000):
        path, file = tmp_path / f"{n}.db", tmp_path / f"{n}.jsonl"
        with Database.open(str(path)) as database:
            fill_study(database.sessions, n, condition, inventory)
        run = subprocess.run([sys.executable, "-c", code, str(path), str(file)], capture_output=True, text=True)
        peaks.append(int(run.stdout) / 1000)
    grown_mb = (tmp_path / "3000.jsonl").stat().st_size / 1e6 - (tmp_path / "500.jsonl").stat().st_size / 1e6
    assert peaks[1] - peaks[0] < grown_mb / 2
