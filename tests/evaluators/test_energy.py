import dataclasses
from pathlib import Path

import pytest
import torch

from autotune.evaluators import energy
from autotune.evaluators.energy import make_energy_meter, rapl_meter
from autotune.evaluators.load import load_model
from autotune.evaluators.worker import PROTOCOL, Worker
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.objective import objective_value, parse_constraint
from autotune.spaces.schedule import Schedule


def packages(root: Path, *counts_uj: int) -> list[Path]:
    """A powercap folder with a counter per package, and a part of the first one."""
    folders = [root / f"intel-rapl:{i}" for i in range(len(counts_uj))]
    for folder, count in zip([*folders, root / "intel-rapl:0:0"], [*counts_uj, 99], strict=True):
        folder.mkdir(parents=True)
        (folder / "energy_uj").write_text(f"{count}\n")
        (folder / "max_energy_range_uj").write_text("1000000\n")
    return folders


def test_the_counters_of_all_packages_add_up_and_wrap_around(tmp_path: Path) -> None:
    first, second = packages(tmp_path, 100_000, 900_000)
    meter = rapl_meter(tmp_path)
    assert (meter.source, meter.read_j()) == ("rapl", 0.0)
    (first / "energy_uj").write_text("350000")
    (second / "energy_uj").write_text("50000")
    assert meter.read_j() == pytest.approx(0.25 + 0.15)
    assert meter.read_j() == pytest.approx(0.4)


def test_machines_without_counters_say_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"intel-rapl:\*, and there is none here: leave energy out"):
        rapl_meter(tmp_path)
    (folder,) = packages(tmp_path, 1)
    (folder / "energy_uj").unlink()
    with pytest.raises(UsageError, match=r"must be readable.*chmod a\+r"):
        rapl_meter(tmp_path)
    with pytest.raises(UsageError, match="NVIDIA GPUs and Linux processors; got mps"):
        make_energy_meter(torch.device("mps"))


def test_timed_runs_are_metered_and_paired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages(tmp_path, 0)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    meter = make_energy_meter(torch.device("cpu"))
    model = load_model("mini-flux")
    worker = Worker(dataclasses.replace(model, preset=dataclasses.replace(model.preset, n_steps=4)), meter=meter)
    assert worker.protocol == f"{PROTOCOL}+energy@rapl"
    pipe, counter = worker._pipe, tmp_path / "intel-rapl:0" / "energy_uj"

    def count(*_: object) -> None:
        counter.write_text(str(int(counter.read_text()) + 4000))

    pipe.transformer.register_forward_hook(count)
    prompts = Fidelity(name="calibration", prompts=("a photo of a cat", "a photo of a ship"), seeds=(3, 4))
    worker._references[prompts.hash] = worker._run(Schedule(n_steps=1), prompts, None)  # the quality does not matter
    measured = worker.score(Schedule(n_steps=1), prompts, repeats=3)
    assert isinstance(measured, Measurement)
    # four millijoules per call, two images a call
    assert measured.energy_j == pytest.approx((0.002,) * 3)
    assert measured.baseline_energy_j == pytest.approx((0.008,) * 3)
    assert objective_value("energy", measured) == pytest.approx(0.25)
    assert parse_constraint("energy_j<=0.001").violation(measured) == pytest.approx(1.0)
