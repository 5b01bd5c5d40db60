"""What the commands print, and what they need for it."""

import csv
import dataclasses
import io
import itertools
import json
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

from autotune.evaluators.presets import PRESETS
from autotune.search.families import FAMILIES
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import load_schedule_file
from autotune.spaces.study_record import StudyState
from autotune.storage.database import Database

from .place import COMMAND, N_EVALUATIONS, N_STEPS, Finished, Place, query

Call = Callable[..., Finished]

HEAVY = ("torch", "diffusers", "transformers", "ray", "deap", "optuna", "sklearn")


def test_help_is_there_at_once() -> None:
    """Processor time of the whole process, which a busy machine does not stretch as it does wall time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    names = (
        "run",
        "resume",
        "list",
        "show",
        "front",
        "export",
        "import",
        "validate",
        "apply",
        "report",
        "compare",
        "ablate",
        "bench",
        "transfer",
        "doctor",
    )
    assert all(f"\n  {name} " in done.stdout for name in names)


def loaded_by(place: Place, *words: str, ends_with: int = 0) -> set[str]:
    """The modules that a command has loaded when it ends with this code."""
    code = (
        "import sys\nfrom autotune.cli.main import main\ntry:\n    main(sys.argv[1:-1])\n"
        "except SystemExit as end:\n    assert (end.code or 0) == int(sys.argv.pop()), end.code\n"
        "print('\\n' + ' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words, str(ends_with)],
        capture_output=True,
        text=True,
        cwd=place.folder,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_only_what_computes_loads_torch(small: Place) -> None:
    storage = ("--storage", small.storage)
    helped = loaded_by(small, "--help")
    assert not helped & {*HEAVY, "sqlalchemy", "matplotlib", "numpy", "rich"}
    for reading in (["front", "small"], ["show", "small"], ["list", "studies"], ["compare", "small"]):
        assert not loaded_by(small, *reading, *storage) & {*HEAVY, "matplotlib"}
    assert not loaded_by(small, "export", "small", "-o", "light.json", *storage) & {*HEAVY, "matplotlib"}
    ((cached,), *_) = query(small, "SELECT schedule_hash FROM candidate WHERE label LIKE 'FORA%'")
    foreign = ("export", "small", "--pick", str(cached), "--format", "diffusers", "-o", "light.py")
    assert not loaded_by(small, *foreign, *storage) & {*HEAVY, "matplotlib"}
    for words in (("validate", "light.json"), ("apply", "light.json"), ("list", "models"), ("list", "families")):
        assert not loaded_by(small, *words) & {*HEAVY, "matplotlib", "sqlalchemy"}
    assert not loaded_by(small, "report", "small", "-o", "light", *storage) & set(HEAVY)
    for wrong in (("--workers", "0"), ("--cost", "3"), ("--objective", "speed")):
        command = ("run", "--model", "mini-flux", "--evaluations", "3", *wrong, *storage)
        assert not loaded_by(small, *command, ends_with=2) & set(HEAVY)


def test_no_words_are_a_call_for_help(call: Call) -> None:
    bare, asked = call(), call("--help")
    assert bare == asked
    assert bare.code == 0
    assert bare.out.startswith("Usage: autotune ")


def test_version(call: Call) -> None:
    assert call("--version") == Finished(0, f"{version('diffusion-autotune')}\n", "")


def test_run_says_what_it_made(made: Finished, small: Place) -> None:
    assert "study small\n" in made.err
    assert f"study small: {N_EVALUATIONS} candidates in " in made.err
    folder = small.folder / "out" / "small"
    assert f"report   {folder / 'report.html'}\n" in made.err
    assert made.err.endswith(f"autotune.apply(pipe, '{folder / 'balanced.schedule.json'}')\n")
    assert "Traceback" not in made.err
    assert "torchvision" not in made.err
    assert (folder / "report.html").is_file()
    for pick in ("quality", "balanced", "fast"):
        load_schedule_file(folder / f"{pick}.schedule.json")
    assert made.out.lstrip().startswith("schedule")


def test_front(small: Place, call: Call) -> None:
    """One object per member with every figure; the CSV and the table hold the same members."""
    rows = small.front("small")
    assert len(rows) >= 3
    assert json.dumps([row["picks"] for row in rows]).count('"') == 6  # each pick once
    wanted = {"schedule_hash", "network_calls", "latency_ms", "speedup", "deviation", "psnr", "alignment", "intervals"}
    for row in rows:
        assert wanted <= set(row)
        assert row["alignment"] is not None  # every prompt names a class
        intervals = row["intervals"]
        assert isinstance(intervals, dict)
        low, high = intervals["deviation"]
        assert low <= row["deviation"] <= high
    printed = call("front", "small", "--storage", small.storage, "--format", "csv")
    cells = list(csv.DictReader(io.StringIO(printed.out)))
    assert [cell["schedule_hash"] for cell in cells] == [row["schedule_hash"] for row in rows]
    assert [float(cell["deviation"]) for cell in cells] == [row["deviation"] for row in rows]
    table = call("front", "small", "--storage", small.storage).out
    assert all(f"{str(row['schedule_hash'])[:8]}   {row['label']} " in table for row in rows)


def test_show(small: Place, call: Call) -> None:
    (summary,) = json.loads(call("show", "small", "--storage", small.storage, "--format", "json").out)
    assert summary["candidates"] == N_EVALUATIONS
    assert summary["objectives"] == ["macs", "deviation"]
    text = call("show", "small", "--storage", small.storage).out
    assert "baseline 1, fewer-steps" in text
    assert "macs, deviation" in text
    assert str(small.front("small")[0]["label"]) in text


def test_list(small: Place, call: Call) -> None:
    rows = json.loads(call("list", "studies", "--storage", small.storage, "--format", "json").out)
    (row,) = [row for row in rows if row["study"] == "small"]
    assert (row["model"], row["family"], row["state"]) == ("mini-flux", "ecad", StudyState.DONE)
    models = json.loads(call("list", "models", "--format", "json").out)
    assert [model["model"] for model in models] == list(PRESETS)
    assert all(model["runs here"] for model in models if model["model"].startswith("mini-"))
    assert call("list", "studies").code == 0  # of a user who has none
    assert call("list", "things").code == 2


def test_list_families(call: Call) -> None:
    rows = json.loads(call("list", "families", "--format", "json").out)
    assert [row["family"] for row in rows] == list(FAMILIES)
    fields = {field.name for field in dataclasses.fields(Schedule)}
    assert all(set(row["decides"]) <= fields for row in rows)
    assert [row["family"] for row in rows if not row["decides"]] == ["given"]
    assert all(row["method"] for row in rows)
    lines = call("list", "families").out.splitlines()
    begins = {row["family"]: " ".join(row["method"].split()[:4]) for row in rows}  # long ones are folded
    assert all(any(line.split()[:1] == [name] and text in line for line in lines) for name, text in begins.items())
    (cells,) = [
        row
        for row in csv.DictReader(io.StringIO(call("list", "families", "--format", "csv").out))
        if row["family"] == "s3"
    ]
    assert json.loads(cells["decides"]) == ["n_steps", "time", "solver", "start"]


def test_export_by_pick_and_by_hash(small: Place, call: Call) -> None:
    front = small.front("small")
    chosen = {str(front[-1]["schedule_hash"])[:9]: front[-1]}
    chosen |= {"quality": next(row for row in front if "quality" in str(row["picks"]))}
    for which, member in chosen.items():
        path = Path("a folder with spaces") / f"{which}.json"
        path.parent.mkdir(exist_ok=True)
        done = call("export", "small", "--pick", which, "-o", path, "--storage", small.storage)
        assert done == Finished(0, f"wrote {path}; in production: autotune.apply(pipe, {str(path)!r})\n", "")
        file = load_schedule_file(path)
        held_out = file.measured["held_out"]
        assert isinstance(held_out, dict)
        assert held_out["network_calls"] == member["network_calls"]
        assert held_out["quality_mean"]["deviation"] == pytest.approx(member["deviation"])
        assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []
        assert call("apply", path).out.startswith(f"autotune.apply(pipe, {str(path)!r})")
        (row,) = json.loads(call("validate", path, "--format", "json").out)
        assert row["hash"] == str(member["schedule_hash"])[:12]


def test_validate_prints_the_schema(call: Call) -> None:
    assert json.loads(call("validate", "--schema").out)["$schema"].startswith("https://json-schema.org/")


def test_apply_draws(small: Place, call: Call) -> None:
    path = small.folder / "out" / "small" / "fast.schedule.json"
    done = call("apply", path, "--prompt", "a photo of a cat", "--prompt", "a photo of a ship", "-o", "x.png")
    assert done == Finished(0, "wrote x.png\n", "")
    with Image.open("x.png") as image:
        assert image.width >= 2 * 32
        assert image.height >= 32
        assert len(set(image.convert("RGB").get_flattened_data())) > 100


def test_report_is_the_one_that_the_run_wrote(small: Place, call: Call) -> None:
    done = call("report", "small", "--storage", small.storage)
    assert done == Finished(0, "wrote autotune-out/small/report.html\n", "")
    first = small.folder / "out" / "small"
    for path in Path("autotune-out/small").iterdir():
        assert path.read_bytes() == (first / path.name).read_bytes()
    export = shlex.join(["autotune", "export", "small", "--pick", "balanced", "-o", "balanced.schedule.json"])
    assert f"{export} --storage {shlex.quote(small.storage)}\n" in (first / "report.md").read_text()


def test_a_study_notes_where_its_default_run_calls_the_network(small: Place) -> None:
    with Database.open(small.storage) as database:
        record = database.load_study("small")
    times = record.default_timesteps
    assert times is not None
    assert len(times) == record.condition.n_steps
    assert times[0] == record.condition.start_timestep
    assert all(later < earlier for earlier, later in itertools.pairwise(times))


def test_doctor(call: Call) -> None:
    done = call("doctor", "--format", "json", "--storage", "new.db")
    rows = json.loads(done.out)
    assert {row["check"] for row in rows} == {"libraries", "device", "database", "disk", "reference model"}
    assert all(row["ok"] for row in rows)
    assert done.code == 0
    sick = call("doctor", "--format", "json", "--storage", "/proc/nowhere/x.db")
    assert sick.code == 1
    assert [row["check"] for row in json.loads(sick.out) if not row["ok"]] == ["database"]


def test_no_feasible_point(small: Place, prompts: Path) -> None:
    """Exit code 3; the front is empty, and no schedule file is written. What is measured already costs nothing."""
    (small.folder / "options.toml").write_text(
        f'model = "mini-flux"\nprompts = "{prompts}"\nconstraint = ["deviation<=0", "macs<=1"]\nquiet = true\n'
        f"ladder = false\ncorrect = false\nsteps = {N_STEPS}\n"
        f'objective = "macs,deviation"\nstorage = "{small.storage}"\nevaluations = 40\nstudy = "not this one"\n'
    )
    done = small.run("--config", "options.toml", "--evaluations", "1", "--study=impossible", "--format", "json")
    assert done.code == 3, done.err
    assert json.loads(done.out) == []
    assert done.err.splitlines()[-1] == "no candidate meets the constraints"
    folder = small.folder / "autotune-out" / "impossible"
    assert (folder / "report.html").is_file()
    assert list(folder.glob("*.schedule.json")) == []
    with Database.open(small.storage) as database:
        record = database.load_study("impossible")
    assert len(record.candidates) == 1  # the command line wins over the file
    assert record.settings["constraints"] == ["deviation<=0", "macs<=1"]
    assert record.settings["ladder"] is False
    nothing = small.run("export", "impossible", "-o", "x.json", "--storage", small.storage)
    assert nothing == Finished(2, "", nothing.err)
    assert nothing.err.startswith("error: study 'impossible' has no feasible schedule")


def test_resume_of_a_study_that_is_done(small: Place) -> None:
    before = small.front("small")
    done = small.run("resume", "small", "--storage", small.storage, "--quiet", "--format", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('modell = "mini-flux"\n', "--modell"),
        ("model = \n", "readable TOML"),
        ("[run]\nmodel = 1\n", "run must be"),
        ('config = "more.toml"\n', "another one"),
        (None, "No such file"),
    ],
)
def test_a_config_file_that_is_wrong(call: Call, text: str | None, said: str) -> None:
    if text is not None:
        Path("c.toml").write_text(text)
    done = call("run", "--config", "c.toml")
    assert done.code == 2
    assert done.out == ""
    assert said in done.err
    assert "Traceback" not in done.err
    assert call("run", "--config").code == 2
