"""A study whose quality is a reward, from its beginning to the pick."""

from functools import partial
from pathlib import Path

import pytest

import autotune
from autotune.evaluators import image_workload
from autotune.reports.export import find_candidate
from autotune.reports.tables import front_rows
from autotune.spaces.errors import UsageError
from autotune.spaces.front import quality_name
from autotune.spaces.reference_schedule import reference_schedule

from .evaluators.tiny_clip import make_clip

pytestmark = pytest.mark.slow


def test_a_study_optimises_a_reward_and_resumes_with_the_same_weights_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No deviation is looked at, so a short reference will do.
    monkeypatch.setattr(image_workload, "reference_schedule", partial(reference_schedule, n_steps=4))
    folder, prompts = make_clip(tmp_path / "clip"), tmp_path / "prompts.txt"
    prompts.write_text("a photo of a cat\na photo of a ship\na photo of a cat\na photo of a dog\na photo of a frog\n")
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    study = autotune.tune(
        "mini-flux", storage=storage, study="s", evaluations=3, steps=4, device="cpu", family="fewer-steps",
        objectives="macs,clip-score", metrics=[f"clip-score={folder}"], constraints=["clip-score>=-1"], prompts=prompts,
    )  # fmt: skip
    record = study.record
    assert record.settings["metrics"] == [f"clip-score={folder}"]
    assert record.settings["held_out"] == ["a photo of a ship", "a photo of a frog"]  # the cat that came again is gone
    assert quality_name(record) == "clip-score"
    for candidate in record.candidates:
        assert candidate.calibration.measurement is not None
        assert len(candidate.calibration.measurement.quality["clip-score"]) == 2
    rows = front_rows(record)
    verified = [row for row in rows if row["source"] == "held_out"]
    assert {row["overfit_metric"] for row in verified} <= {"clip-score", None}
    best = max(verified, key=lambda row: float(str(row["clip-score"])))
    assert find_candidate(record, "macs<=1").schedule_hash == best["schedule_hash"]
    make_clip(folder, seed=1)
    with pytest.raises(UsageError, match=r"protocol was '\d+\+clip-score@"):
        autotune.resume("s", storage=storage, evaluations=4)
