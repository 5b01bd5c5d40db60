"""Small studies of block-wise caches on a real model, from the recording of branches to an exported schedule."""

from functools import partial
from pathlib import Path

import pytest

import autotune
from autotune.evaluators import image_workload
from autotune.spaces.blockwise_plan import fresh_units, refreshed_share
from autotune.spaces.errors import StorageError, UsageError
from autotune.spaces.reference_schedule import reference_schedule
from autotune.spaces.schedule_file import load_schedule_file

pytestmark = pytest.mark.slow


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a photo of a cat\na photo of a ship\n")
    return path


@pytest.mark.parametrize("family", ["bac", "evo"])
def test_a_study_of_block_wise_caches(
    family: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_workload, "reference_schedule", partial(reference_schedule, n_steps=6))
    tune = partial(
        autotune.tune, "mini-pixart", storage=str(tmp_path / "s.db"), steps=6, device="cpu", family=family,
        objectives="macs,deviation", prompts=prompts,
    )  # fmt: skip
    study = tune(study="s", evaluations=6)
    found = [c for c in study.record.candidates if c.family == family]
    assert len(found) == 4  # besides the default run and a quarter for the rival
    assert found[0].label.startswith("BAC, 2 of 6 calls refreshed, union of 5")
    inventory = study.record.inventory
    for candidate in found:
        plan, measurement = candidate.schedule.cache, candidate.calibration.measurement
        assert plan is not None
        assert measurement is not None
        share = refreshed_share(plan, inventory)
        assert measurement.relative_macs == pytest.approx(share.network, rel=1e-9)
        assert share.branches <= share.network < 1.0
        assert fresh_units(plan.table, inventory)[0].all()
        if "union of 5" in candidate.label:
            assert candidate.label.endswith(f"{share.branches:.1%} of the branches' MACs")
    again = autotune.resume("s", storage=str(tmp_path / "s.db"), evaluations=7)
    assert [c.schedule_hash for c in again.record.candidates][:6] == [c.schedule_hash for c in study.record.candidates]
    cheapest = min(found, key=lambda c: c.calibration.measurement.relative_macs)  # type: ignore[union-attr]
    path = tmp_path / "blocks.schedule.json"
    again.export(path, pick=cheapest.schedule_hash)
    assert load_schedule_file(path).schedule == cheapest.schedule


@pytest.mark.parametrize("family", ["s3", "dc", "solver-distill"])
def test_a_family_that_needs_a_converged_run_is_refused_for_a_policy_before_anything_is_measured(
    family: str, tmp_path: Path
) -> None:
    pytest.importorskip("metaworld")
    storage = str(tmp_path / "s.db")
    with pytest.raises(UsageError, match=f"the family {family} needs a converged run, and mini-policy has none.*evo"):
        autotune.tune("mini-policy", storage=storage, device="cpu", family=family, evaluations=4, study="s")
    with pytest.raises(StorageError, match="there is none named 's'"):  # no study was begun
        autotune.load_study("s", storage=storage)
