"""A study of the robot policy as a user makes it: search, front, report, file, the file on a policy."""

from pathlib import Path

import pytest
import torch

import autotune
from autotune.evaluators.load import load_model
from autotune.spaces.front import record_objectives
from autotune.spaces.schedule_file import load_schedule_file

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", ["bac", "joint"])
def test_a_policy_is_searched_exported_and_applied(tmp_path: Path, family: str) -> None:
    pytest.importorskip("metaworld")
    tasks = tmp_path / "tasks.txt"
    tasks.write_text("reach\nreach\npush\ndrawer-open\n" * 2)
    study = autotune.tune(
        "mini-policy", storage=f"sqlite:///{tmp_path / 'studies.db'}", study="p", evaluations=6, steps=10,
        device="cpu", family=family, prompts=tasks, ladder=False,
    )  # fmt: skip
    assert record_objectives(study.record) == ("latency", "success")
    assert {c.family for c in study.record.candidates} == {"baseline", "fewer-steps", family}
    rows = study.front
    assert rows
    assert all(isinstance(row["success"], float) and row["deviation"] is None for row in rows)
    page = study.report(tmp_path / "out")
    assert "success" in page.read_text()
    file = tmp_path / "policy.schedule.json"
    study.export(file, "fast")
    told = autotune.bench(file, n_prompts=6, repeats=1, device="cpu", storage=f"sqlite:///{tmp_path / 'bench.db'}")
    assert told["prompts"]["number"] == 6  # type: ignore[index]
    pipe = load_model("mini-policy", device="cpu").pipe
    seen = torch.zeros(1, 2, 26)

    def noise() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    plain = pipe(seen, num_inference_steps=10, generator=noise()).actions
    autotune.apply(pipe, file)
    pipe(seen, num_inference_steps=load_schedule_file(file).schedule.n_steps, generator=noise())
    autotune.remove(pipe)
    assert torch.equal(pipe(seen, num_inference_steps=10, generator=noise()).actions, plain)
