import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

import autotune
from autotune.evaluators.presets import ZOO
from autotune.spaces.errors import StudyExistsError, UsageError
from autotune.spaces.schedule_file import load_schedule_file

N_STEPS = 8
CALL = {"height": 32, "width": 32, "num_inference_steps": N_STEPS, "max_sequence_length": 16, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipe() -> Any:
    load: Any = DiffusionPipeline.from_pretrained
    made = load(ZOO / "mini-flux", dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a photo of a cat\none ship\na truck\nthe horse\n")
    return path


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("database") / "a.db")


@pytest.fixture(scope="module")
def study(pipe: Any, prompts: Path, storage: str) -> autotune.Study:
    before = draw(pipe)
    made = autotune.tune(
        pipe,
        study="mine",
        storage=storage,
        family="ecad",
        evaluations=8,
        steps=N_STEPS,
        prompts=prompts,
        objectives="macs,deviation",
    )
    assert torch.equal(draw(pipe), before), "the user's pipeline must be as it was"
    return made


def draw(pipe: Any) -> torch.Tensor:
    images: torch.Tensor = pipe("a cat", generator=torch.Generator().manual_seed(0), **CALL).images
    return images


def test_a_pipeline_of_the_users_own_is_tuned(study: autotune.Study) -> None:
    assert study.name == "mine"
    assert len(study.record.candidates) == 8
    assert study.front
    for member in study.front:
        assert member["source"] in ("held_out", "calibration")
        assert {"schedule_hash", "network_calls", "latency_ms", "speedup", "deviation", "psnr", "alignment"} <= set(
            member
        )
    assert study.record.candidates[0].family == "baseline"


def test_an_export_is_applied_and_taken_off_again(study: autotune.Study, pipe: Any, tmp_path: Path) -> None:
    path = tmp_path / "fast.json"
    member = next(row for row in study.front if row["family"] != "baseline")
    study.export(path, pick=str(member["schedule_hash"]))
    n_steps = load_schedule_file(path).schedule.n_steps
    plain = draw(pipe)
    with autotune.applied(pipe, path):
        scheduled = pipe(
            "a cat", generator=torch.Generator().manual_seed(0), **{**CALL, "num_inference_steps": n_steps}
        ).images
    assert not torch.equal(scheduled, plain)
    assert torch.equal(draw(pipe), plain)
    measured = json.loads(path.read_text())["measured"]
    assert len(measured["calibration"]["quality_per_prompt"]["deviation"]) == 2


def test_an_export_for_another_tool(study: autotune.Study, tmp_path: Path) -> None:
    cached = next(c.schedule_hash for c in study.record.candidates if c.label.startswith("FORA"))
    study.export(tmp_path / "plan.py", pick=cached, form="diffusers")
    assert "def apply_plan(" in (tmp_path / "plan.py").read_text()
    with pytest.raises(UsageError, match="'onnx'"):
        study.export(tmp_path / "plan.onnx", pick=cached, form="onnx")


def test_a_report_is_written_for_a_study_read_back(study: autotune.Study, storage: str, tmp_path: Path) -> None:
    page = autotune.load_study("mine", storage=storage).report(tmp_path / "out")
    assert page.name == "report.html"
    assert "mine" in page.read_text()
    assert (tmp_path / "out" / "front.png").read_bytes().startswith(b"\x89PNG")


def test_resuming_with_a_larger_budget_keeps_what_was_measured(study: autotune.Study, pipe: Any, storage: str) -> None:
    longer = autotune.resume("mine", pipe=pipe, storage=storage, evaluations=10)
    first = [c.schedule_hash for c in study.record.candidates]
    assert [c.schedule_hash for c in longer.record.candidates][: len(first)] == first
    assert len(longer.record.candidates) == 10
    kept = {c.schedule_hash: c.calibration.outcome for c in longer.record.candidates}
    assert all(kept[c.schedule_hash] == c.calibration.outcome for c in study.record.candidates)


def test_a_taken_name_and_a_wrong_argument_are_said_before_anything_runs(
    pipe: Any, study: autotune.Study, storage: str
) -> None:
    with pytest.raises(StudyExistsError, match="'mine' exists; resume it"):
        autotune.tune(pipe, study="mine", storage=storage, budget="1m")
    with pytest.raises(UsageError, match="2 hours"):
        autotune.tune(pipe, storage=storage, budget="2 hours")
    with pytest.raises(UsageError, match="family"):
        autotune.tune(pipe, storage=storage, budget="1m", family="nosuch")


def test_public_names_are_all_there() -> None:
    assert all(getattr(autotune, name) for name in autotune.__all__)
    with pytest.raises(AttributeError, match="nosuch"):
        autotune.nosuch  # noqa: B018
