"""A schedule file taken to another step count on the command line, on a real model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autotune.evaluators.load import load_model
from autotune.spaces.schedule_file import load_schedule_file, save_schedule_file
from autotune.storage.database import Database

from .place import N_STEPS, Finished, Place

Call = Callable[..., Finished]

WHERE = f"mini-flux, {N_STEPS} steps, 32x32, guidance 1"
"""What the source is for."""


@pytest.fixture
def file(small: Place, call: Call) -> Path:
    """The schedule file of a candidate that caches."""
    with Database.open(small.storage) as database:
        record = database.load_study("small")
    cached = next(c for c in record.candidates if c.schedule.cache is not None)
    done = call("export", "small", "--pick", cached.schedule_hash, "-o", "source.json", "--storage", small.storage)
    assert done.code == 0, done.err
    return Path("source.json").resolve()


def test_transfer_and_resume(file: Path, prompts: Path, tmp_path: Path) -> None:
    """The re-timed schedule is candidate 1; what it lost stands below the front, and again after a resume."""
    place, source, n_steps = Place(tmp_path), load_schedule_file(file).schedule, 5
    where = ("--storage", place.storage, "--out", tmp_path / "out", "--quiet")
    words = ("--steps", n_steps, "--evaluations", 4, "--objective", "macs,deviation", "--prompts", prompts)
    done = place.run("transfer", file, "--model", "mini-flux", *words, "--study", "moved", *where)
    assert done.code == 0, done.err
    with Database.open(place.storage) as database:
        record = database.load_study("moved")
    assert record.condition.n_steps == n_steps
    moved = record.candidates[1]
    assert (moved.family, moved.label) == ("given", "re-timed: source.json")
    assert moved.schedule.n_steps == n_steps
    assert moved.schedule.cache is not None
    assert source.cache is not None
    assert moved.held_out is not None
    for text in (WHERE, "refined", "there"):
        assert text in done.out
    resumed = place.run("resume", "moved", "--evaluations", 5, *where)
    assert resumed.code == 0, resumed.err
    assert WHERE in resumed.out
    with Database.open(place.storage) as database:
        again = database.load_study("moved")
    assert [c.schedule_hash for c in again.candidates[:4]] == [c.schedule_hash for c in record.candidates]


@pytest.mark.slow
def test_another_checkpoint_of_the_same_architecture(file: Path, prompts: Path, tmp_path: Path) -> None:
    """One whose weights differ by some percent, such as a fine-tuned one: the schedule is carried over as it is."""
    pipe = load_model("mini-flux", device="cpu").pipe
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in pipe.transformer.parameters():
            weight.mul_(1.0 + 0.03 * torch.randn(weight.shape, generator=generator))
    pipe.save_pretrained(tmp_path / "tuned")
    place, source = Place(tmp_path), load_schedule_file(file).schedule
    where = ("--storage", place.storage, "--out", tmp_path / "out", "--quiet")
    words = ("--steps", N_STEPS, "--evaluations", 3, "--objective", "macs,deviation", "--prompts", prompts)
    done = place.run("transfer", file, "--model", tmp_path / "tuned", *words, "--study", "moved", *where)
    assert done.code == 0, done.err
    with Database.open(place.storage) as database:
        record = database.load_study("moved")
    assert record.condition.model != "mini-flux"
    moved = record.candidates[1]
    assert (moved.family, moved.label, moved.schedule) == ("given", "given: source.json", source)
    assert moved.held_out is not None
    assert moved.held_out.measurement is not None
    for text in (WHERE, "refined", "there"):
        assert text in done.out


def test_another_model_is_refused_before_anything_is_made(file: Path, call: Call, tmp_path: Path) -> None:
    done = call("transfer", file, "--model", "mini-pixart", "--out", tmp_path / "out", "--storage", tmp_path / "no.db")
    assert done.code == 2
    assert "made for a FluxTransformer2DModel, not for the PixArtTransformer2DModel here" in done.err
    assert done.err.count("\n") == 1


def test_a_size_that_is_no_square_is_not_dropped_silently(file: Path, call: Call, tmp_path: Path) -> None:
    content = load_schedule_file(file)
    wide = dataclasses.replace(content, condition=dataclasses.replace(content.condition, width=64))
    save_schedule_file(tmp_path / "wide.json", wide)
    words = ("--out", tmp_path / "out", "--storage", tmp_path / "no.db")
    done = call("transfer", tmp_path / "wide.json", "--model", "mini-flux", *words)
    assert done.code == 2
    assert (
        "a square, or 32 x 32, which mini-flux has by default; the file is for 64 x 32: give --resolution" in done.err
    )


def test_a_family_of_given_schedules_needs_some(call: Call, tmp_path: Path) -> None:
    words = ("--evaluations", 2, "--out", tmp_path / "out", "--storage", tmp_path / "no.db")
    done = call("run", "--model", "mini-flux", "--family", "given", *words)
    assert done.code == 2
    assert "--start" in done.err
