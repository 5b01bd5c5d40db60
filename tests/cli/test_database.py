"""`autotune db`: what it says, and one clear error with the right exit code for each wrong input."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.inventory import Inventory, Site
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.storage import migrate
from autotune.storage.connection import WRITES, make_engine
from autotune.storage.database import CandidateEntry, Database
from autotune.storage.location import parse_location

from .place import Finished

Call = Callable[..., Finished]

FAILED, USAGE = 1, 2

INVENTORY = Inventory(
    denoiser_class="Toy", sites=(Site(name="b.0", block="0", component="block", macs=50),), total_macs=60
)
CONDITION = Condition(
    model="toy/model",
    revision="abc",
    pipeline_class="ToyPipeline",
    inventory_hash=INVENTORY.hash,
    noise_schedule=Flow(),
    prediction="velocity",
    scheduler_class="FlowMatchEulerDiscreteScheduler",
    start_timestep=1000.0,
    height=64,
    width=64,
    batch_size=1,
    dtype="float32",
    guidance_scale=1.0,
    n_steps=2,
    device="cpu",
)
FIDELITY = Fidelity(name="calibration", prompts=("a", "b"), seeds=(1, 2))


def make_database(path: Path, *names: str) -> None:
    """A database with studies of two candidates."""
    schedules = [Schedule(n_steps=i + 1) for i in range(2)]
    hashes = [schedule_hash(schedule) for schedule in schedules]
    with Database.open(str(path)) as database:
        database.start_evaluations(
            [
                EvaluationRequest(key=h, schedule=s, schedule_hash=h, condition=CONDITION, fidelity=FIDELITY)
                for s, h in zip(schedules, hashes, strict=True)
            ]
        )
        measurement = Measurement(
            quality={"deviation": (0.1, 0.2)}, latency_ms=(1.0,), baseline_latency_ms=(2.0,), macs=1, baseline_macs=2,
            network_calls=3, peak_memory_bytes=4, wall_s=5.0,
        )  # fmt: skip
        database.finish_evaluations(dict.fromkeys(hashes, measurement))
        for name in names:
            database.create_study(name, settings={}, provenance={}, condition=CONDITION, inventory=INVENTORY)
            entries = [
                CandidateEntry(number=i, family="f", label="l", schedule=s, schedule_hash=hashes[i], key=hashes[i])
                for i, s in enumerate(schedules)
            ]
            database.add_candidates(name, entries)
        database.artifacts.save("sheet", b"picture", "image/png")


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    path = tmp_path / "studies.db"
    make_database(path, "one", "two")
    return path


def check_error(done: Finished, code: int, *words: str) -> None:
    """One line on standard error that says these words, and nothing else anywhere."""
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err
    assert done.code == code


def test_an_older_database_is_upgraded_and_a_second_time_nothing_is_to_do(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    location = parse_location(str(path))
    engine = make_engine(location)
    migrate.upgrade(engine.execution_options(**{WRITES: True}), location, "0001")
    engine.dispose()
    done = call("db", "upgrade", "--storage", path)
    assert (done.code, done.out, done.err) == (0, f"{path} was upgraded from revision 0001 to {migrate.HEAD}\n", "")
    done = call("db", "upgrade", "--storage", path)
    assert (done.code, done.out, done.err) == (0, f"{path} is at revision {migrate.HEAD} already\n", "")


def test_studies_are_exported_and_imported_once(call: Call, storage: Path, tmp_path: Path) -> None:
    done = call("db", "export", "all.jsonl.gz", "--storage", storage, "--artifacts")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "wrote all.jsonl.gz: 1 condition, 1 prompt set, 2 schedules, 2 evaluations, 2 studies, 4 candidates, "
        "1 artifact\n"
    )
    assert b"picture" not in gzip.decompress(Path("all.jsonl.gz").read_bytes())  # it is written in base64
    new = tmp_path / "new.db"
    done = call("db", "import", "all.jsonl.gz", "--storage", new)
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        f"imported all.jsonl.gz into {new}; new: 1 condition, 1 prompt set, 2 schedules, 2 evaluations, 2 studies, "
        "4 candidates, 1 artifact\n"
    )
    assert call("db", "import", "all.jsonl.gz", "--storage", new).out.endswith("; new: nothing\n")
    with Database.open(str(storage)) as before, Database.open(str(new)) as after:
        assert after.load_study("one") == before.load_study("one")
        assert after.artifacts.load("sheet") == b"picture"


def test_some_studies_are_exported_without_contents_and_imported_under_another_name(call: Call, storage: Path) -> None:
    done = call("db", "export", "one.jsonl", "--study", "one", "--storage", storage)
    assert (done.code, done.err) == (0, "")
    lines = [json.loads(line) for line in Path("one.jsonl").read_text().splitlines()[1:]]
    assert [line["name"] for line in lines if line["kind"] == "study"] == ["one"]
    assert not any("content" in line for line in lines)
    done = call("db", "import", "one.jsonl", "--rename", "one=three", "--storage", storage)
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("; new: 1 study, 2 candidates\n")
    assert call("list", "studies", "--storage", storage, "--format", "csv").out.count("\n") == 4


def test_a_vacuum_says_what_it_freed(call: Call, storage: Path) -> None:
    (file,) = storage.with_name("studies.db.artifacts").glob("*/*")
    file.unlink()
    done = call("db", "vacuum", "--storage", storage)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(
        "removed: unused files 0 (0 B), names of lost files 1, evaluations that were given up 0, "
        "leases of dead processes 0; the database shrank by "
    )


@pytest.mark.parametrize("command", [("upgrade",), ("export", "x.jsonl"), ("vacuum",)])
def test_a_database_that_is_not_there_is_not_made(call: Call, tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "nowhere.db"
    check_error(call("db", *command, "--storage", path), FAILED, "must exist", "nowhere.db", "--storage")
    assert not path.exists()
    assert not Path("x.jsonl").exists()


def test_an_unknown_study_is_refused_and_no_file_is_left(call: Call, storage: Path) -> None:
    done = call("db", "export", "x.jsonl", "--study", "on", "--storage", storage)
    check_error(done, FAILED, "none named 'on'", "did you mean 'one'", "autotune list studies")
    assert list(Path().iterdir()) == []


def test_a_file_that_can_not_be_written_is_refused(call: Call, storage: Path) -> None:
    done = call("db", "export", "no/folder/x.jsonl", "--storage", storage)
    check_error(done, FAILED, "no/folder/x.jsonl could not be written", "make the folder no/folder first")


BAD_FILES: list[tuple[str, tuple[str, ...]]] = [
    ("", ("must be a file that `autotune db export` wrote",)),
    ("not json\n", ("line 1", "must be JSON")),
    ('{"format":"diffusion-autotune-export","version":7,"revision":"0004"}\n', ("version 1", "got 7", "pip install")),
    ('{"format":"diffusion-autotune-export","version":1,"revision":"0004"}\n', ("cut off",)),
    (
        '{"format":"diffusion-autotune-export","version":1,"revision":"0004"}\n{"kind":"schedule","hash":"0"}\n'
        '{"kind":"end","n_lines":1}\n',
        ("line 2", "data is missing", "nothing was imported"),
    ),
]


@pytest.mark.parametrize(("text", "words"), BAD_FILES)
def test_a_bad_file_is_refused_with_its_line(call: Call, storage: Path, text: str, words: tuple[str, ...]) -> None:
    before = storage.read_bytes()
    Path("bad.jsonl").write_text(text)
    check_error(call("db", "import", "bad.jsonl", "--storage", storage), USAGE, "bad.jsonl", *words)
    assert storage.read_bytes() == before


def test_a_missing_file_is_refused_and_makes_no_study(call: Call, storage: Path) -> None:
    done = call("db", "import", "missing.jsonl", "--storage", storage)
    check_error(done, USAGE, "missing.jsonl must be a file that can be read")


@pytest.mark.parametrize(
    ("renames", "words"),
    [
        (("one",), ("--rename must read OLD=NEW", "'one'")),
        (("=three",), ("OLD=NEW",)),
        (("one=",), ("OLD=NEW",)),
        (("one=a", "one=b"), ("a study once", "'one' twice")),
        (("six=a",), ("none named 'six'", "'one', 'two'")),
        (("one=-a",), ("must not begin with -", "'-a'")),
    ],
)
def test_a_wrong_rename_is_refused(call: Call, storage: Path, renames: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert call("db", "export", "x.jsonl", "--storage", storage).code == 0
    options = [word for rename in renames for word in ("--rename", rename)]
    check_error(call("db", "import", "x.jsonl", *options, "--storage", storage), USAGE, *words)


def test_a_taken_name_is_refused_with_the_option_that_renames(call: Call, storage: Path, tmp_path: Path) -> None:
    assert call("db", "export", "x.jsonl", "--storage", storage).code == 0
    other = tmp_path / "other.db"
    make_database(other, "two")
    done = call("db", "import", "x.jsonl", "--storage", other)
    check_error(done, USAGE, "another study is named 'two' here", "--rename two=NEW", "nothing was imported")
    assert call("db", "import", "x.jsonl", "--rename", "two=2", "--storage", other).code == 0


def test_the_group_alone_shows_its_commands(call: Call) -> None:
    done = call("db", "--help")
    assert done.code == 0
    for command in ("upgrade", "export", "import", "vacuum"):
        assert f"  {command} " in done.out
