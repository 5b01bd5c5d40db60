"""Policies as values: what is refused, what they look like as JSON, and the decisions of their rules by hand."""

import dataclasses
import hashlib
import json
from pathlib import Path

import jsonschema
import pytest

from autotune.evaluators.small_flux import small_flux_condition, small_flux_inventory
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.cache_policy import CachePolicy, PolicyKind, policy_from_json, supports
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.policy_calibration import PolicyCalibration
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash, schedule_to_json
from autotune.spaces.schedule_file import SCHEMA_PATH, ScheduleFile, load_schedule_file, save_schedule_file
from autotune.spaces.schedule_json import schedule_from_json
from autotune.spaces.skip_rule import make_rule

RATIOS = (1.0, 0.9, 0.9, 1.1, 0.5)
POLICIES = (
    CachePolicy(kind=PolicyKind.SADA, threshold=1.0, order=2, max_skips=3, warm_up=2, cool_down=1),
    CachePolicy(kind=PolicyKind.SADA_MULTISTEP, threshold=1.0, order=3, settled=4),
    CachePolicy(kind=PolicyKind.SADA_RELEASED, threshold=0.9),
    CachePolicy(kind=PolicyKind.SADA_RELEASED_MULTISTEP, threshold=0.9, settled=4, max_skips=3),
    CachePolicy(kind=PolicyKind.TEACACHE, threshold=0.2, polynomial=(2.0, 0.0)),
    CachePolicy(kind=PolicyKind.FIRST_BLOCK, threshold=0.1),
    CachePolicy(kind=PolicyKind.MAGCACHE, threshold=0.3, ratios=RATIOS),
    CachePolicy(kind=PolicyKind.DIFFUSERS_FIRST_BLOCK, threshold=0.1),
    CachePolicy(kind=PolicyKind.DIFFUSERS_TAYLORSEER, interval=3, warm_up=2),
    CachePolicy(kind=PolicyKind.DIFFUSERS_MAGCACHE, threshold=0.1, ratios=RATIOS, max_skips=2),
    CachePolicy(kind=PolicyKind.DIFFUSERS_PAB, interval=3, window=(100.0, 900.0)),
    CachePolicy(kind=PolicyKind.DIFFUSERS_FASTERCACHE, interval=2, window=(-1.0, 681.0)),
)


def test_every_kind_is_among_the_policies_of_these_tests() -> None:
    assert [policy.kind for policy in POLICIES] == list(PolicyKind)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.kind)
def test_a_policy_survives_json_and_the_schedule_file_and_is_part_of_the_hash(
    policy: CachePolicy, tmp_path: Path
) -> None:
    assert policy_from_json(json.loads(json.dumps(policy.to_json()))) == policy
    schedule = Schedule(n_steps=5, policy=policy)
    inventory = small_flux_inventory()
    assert canonical_schedule(schedule, inventory) == schedule
    assert schedule_from_json(json.loads(json.dumps(schedule_to_json(schedule)))) == schedule
    assert schedule_hash(schedule) != schedule_hash(Schedule(n_steps=5))
    path = tmp_path / "p.json"
    save_schedule_file(path, ScheduleFile(schedule=schedule, condition=small_flux_condition(inventory)))
    assert load_schedule_file(path).schedule == schedule
    jsonschema.validate(json.loads(path.read_text()), json.loads(SCHEMA_PATH.read_text()))
    edited = json.loads(path.read_text())
    edited["schedule"]["policy"]["speed"] = 1
    path.write_text(json.dumps(edited))
    with pytest.raises(ScheduleError, match="speed"):
        load_schedule_file(path)


def test_schedules_without_a_policy_say_nothing_of_it_so_that_known_hashes_stay() -> None:
    assert "policy" not in schedule_to_json(Schedule(n_steps=5))
    text = '{"cache":null,"compensation":null,"guidance":null,"n_steps":20,"solver":null,"time":null}'
    assert schedule_hash(Schedule(n_steps=20)) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": PolicyKind.FIRST_BLOCK, "threshold": -0.1}, "threshold must be at least 0; got -0.1"),
        ({"kind": PolicyKind.FIRST_BLOCK, "threshold": float("nan")}, "threshold must be finite"),
        ({"kind": PolicyKind.FIRST_BLOCK, "max_skips": 0}, "max_skips must be an integer from 1"),
        ({"kind": PolicyKind.FIRST_BLOCK, "interval": 3}, "reads threshold, .*; got interval"),
        ({"kind": PolicyKind.SADA, "order": 1}, "order must be 2 or 3"),
        ({"kind": PolicyKind.MAGCACHE}, "ratios must hold one ratio per network call"),
        ({"kind": PolicyKind.MAGCACHE, "ratios": (1.0, 0.0)}, "ratios must be positive"),
        ({"kind": PolicyKind.TEACACHE}, "polynomial must have"),
        ({"kind": PolicyKind.DIFFUSERS_PAB, "window": (800.0, 100.0)}, "window must be two timesteps"),
        ({"kind": "fast"}, "kind must be one of sada"),
    ],
)
def test_wrong_numbers_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        CachePolicy(**values)  # type: ignore[arg-type]


def test_a_policy_excludes_cache_and_guidance_and_fixes_the_number_of_calls() -> None:
    plan = CachePlan.from_array([[0, 0]] * 5)
    for other in ({"cache": plan}, {"guidance": (GuidanceAction.BOTH,) * 5}):
        with pytest.raises(ScheduleError, match="got both: leave one out"):
            Schedule(n_steps=5, policy=POLICIES[5], **other)
    with pytest.raises(ScheduleError, match=r"got 5 for 6 steps"):
        Schedule(n_steps=6, policy=POLICIES[6])


def test_what_a_denoiser_does_not_support_has_no_canonical_form() -> None:
    unet = dataclasses.replace(small_flux_inventory(), denoiser_class="UNet2DConditionModel")
    refused = [policy.kind for policy in POLICIES if not supports(policy.kind, unet)]
    assert refused == [PolicyKind.TEACACHE, *(kind for kind in PolicyKind if kind.by_diffusers)]
    with pytest.raises(ScheduleError, match="can't run on a UNet2DConditionModel"):
        canonical_schedule(Schedule(n_steps=5, policy=POLICIES[4]), unet)


def decisions(policy: CachePolicy, changes: list[float | None]) -> str:
    rule = make_rule(policy, len(changes))
    return "".join("s" if rule.skips(i, change) else "C" for i, change in enumerate(changes))


def test_first_block_skips_below_the_threshold_within_its_limits() -> None:
    policy = CachePolicy(kind=PolicyKind.FIRST_BLOCK, threshold=0.1, max_skips=2, warm_up=2, cool_down=1)
    assert decisions(policy, [None, 0.01, 0.05, 0.09, 0.01, 0.1, 0.02, 0.02]) == "CCssCCsC"


def test_teacache_adds_up_the_polynomial_until_a_call_is_computed() -> None:
    policy = CachePolicy(kind=PolicyKind.TEACACHE, threshold=0.5, polynomial=(2.0, 0.0))
    # 2 x: 0.2, 0.4, then 0.6, which is too much; from 0 on again 0.4
    assert decisions(policy, [None, 0.1, 0.1, 0.1, 0.2, 0.2]) == "CssCsC"


def test_magcache_accumulates_the_product_of_the_ratios() -> None:
    # |1 - 0.9| = 0.1; 0.81 adds 0.19 to 0.29; 0.891 would add 0.109 to 0.399: computed, then 0.5
    assert decisions(CachePolicy(kind=PolicyKind.MAGCACHE, threshold=0.3, ratios=RATIOS), [None] * 5) == "CssCC"
    assert decisions(CachePolicy(kind=PolicyKind.MAGCACHE, threshold=0.0, ratios=RATIOS), [None] * 5) == "CCCCC"


def test_a_calibration_averages_ratios_and_finds_the_polynomial_that_is_there() -> None:
    inputs = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]] * 2
    outputs = [[3.0 * x**2 + 0.5 * x for x in row] for row in inputs]
    found = PolicyCalibration.fit([[0.9] * 10, [1.1] * 10], inputs, outputs)
    assert found.ratios == pytest.approx((1.0,) * 11)
    assert found.polynomial == pytest.approx((0.0, 0.0, 3.0, 0.5, 0.0), abs=1e-8)
    with pytest.raises(ScheduleError, match="finite"):
        PolicyCalibration.fit([[float("nan")]], [], [[0.1]])
