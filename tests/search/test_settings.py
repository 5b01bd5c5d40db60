import dataclasses
import json
from pathlib import Path

import pytest

from autotune.evaluators.presets import PRESETS
from autotune.search.settings import Settings, make_settings, settings_from_json
from autotune.spaces.errors import UsageError
from autotune.spaces.granularity import Granularity


def settings(**options: object) -> Settings:
    return make_settings("mini-flux", PRESETS["mini-flux"], evaluations=1, **options)  # type: ignore[arg-type]


def test_held_out_prompts_and_seeds_are_none_of_the_calibrations(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\na ship\na cat\na cat\na frog\na dog\n")
    for made in (settings(), settings(prompts=prompts)):
        plan = made.plan("s")
        assert plan.calibration.prompts
        assert plan.held_out.prompts
        assert not set(plan.calibration.prompts) & set(plan.held_out.prompts)
        assert not set(plan.calibration.seeds) & set(plan.held_out.seeds)
    prompts.write_text("a cat\na cat\n")
    with pytest.raises(UsageError, match="two different prompts"):
        settings(prompts=prompts)


def test_metrics_are_kept_with_the_folders_of_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights").mkdir()
    made = settings(metrics=["clip-score=weights"], objectives="latency,clip-score", constraints=["energy_j<=9"])
    assert made.metrics == (f"clip-score={tmp_path / 'weights'}", "energy")
    assert settings_from_json(json.loads(json.dumps(dataclasses.asdict(made)))) == made
    with pytest.raises(UsageError, match="image-reward is not available"):
        settings(objectives="latency,image-reward")


def test_a_family_may_have_objectives_besides_latency_and_quality() -> None:
    """Where the budget has room for what they take."""
    assert settings(family="ecad").objectives == ("latency", "deviation", "cache-memory")
    assert settings(family="joint").objectives == ("latency", "deviation")
    assert settings(family="ecad", objectives="macs,psnr").objectives == ("macs", "psnr")
    assert len(settings(family="ecad", budget="10m").objectives) == 3
    for short in ({"budget": "9m"}, {"network_calls": 19_000}, {"cost": 1.0, "price": 7.0}):
        assert settings(family="ecad", **short).objectives == ("latency", "deviation")


def test_a_granularity_is_kept_and_is_ecads_alone() -> None:
    made = settings(family="ecad", granularity="steps")
    assert made.plan("s").granularity is Granularity.STEPS
    kept = json.loads(json.dumps(dataclasses.asdict(made)))
    assert settings_from_json(kept) == made
    del kept["granularity"]
    assert settings_from_json(kept).plan("s").granularity is Granularity.COMPONENTS, "of a study made before"
    with pytest.raises(UsageError, match="steps for joint: choose --family ecad"):
        settings(granularity="steps")
    with pytest.raises(UsageError, match="one of steps, groups, blocks, leaves, components, branches; got 'layers'"):
        settings(family="ecad", granularity="layers")


@pytest.mark.parametrize(
    ("objectives", "constraints", "named"),
    [
        ("latency,deviation,weights", (), "latency"),
        ("latency,deviation", ("bit-operations<=0.1",), "latency"),
        ("macs,deviation,weights", ("latency_ms<=9",), "latency_ms"),
    ],
)
def test_emulated_precision_is_not_timed(objectives: str, constraints: tuple[str, ...], named: str) -> None:
    with pytest.raises(UsageError, match=f"{named} times low precision as it is emulated .* name modelled-latency"):
        settings(objectives=objectives, constraints=constraints)


def test_where_a_limit_is_on_weights_the_speed_is_that_of_the_cost_model() -> None:
    assert settings(constraints=["weights_gb<=1"]).objectives == ("modelled-latency", "deviation")
    assert settings(constraints=["deviation<=0.1"]).objectives == ("latency", "deviation")
