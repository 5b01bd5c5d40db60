"""Whether the pipeline's own sampler is set as it was when a schedule was measured."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.apply import _attach, applied, apply, attach, remove
from autotune.evaluators.correction_table import COLUMN, correction_tensors
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.measured_run import MeasuredRun
from autotune.evaluators.noise import changed_settings
from autotune.evaluators.schedule_table import make_table
from autotune.spaces.cache_correction import OUTPUT, CacheCorrection, ChannelAffine
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.cache_policy import CachePolicy, PolicyKind
from autotune.spaces.condition import condition_from_json
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.inventory import Inventory
from autotune.spaces.quantization import Quantization
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.table_identity import TableIdentity

from .mini_pipelines import run
from .schedule_files import condition_of, make_scheduler


def files(pipe: Any) -> tuple[ScheduleFile, ScheduleFile]:
    """A cache on the pipeline's own sampler, without and with a table."""
    inventory = list_inventory(pipe)
    condition = condition_of(pipe, scheduler_config=changed_settings(pipe.scheduler))
    actions = np.zeros((4, len(inventory)))
    actions[1, inventory.outermost] = 1
    plain = canonical_schedule(Schedule(n_steps=4, cache=CachePlan.from_array(actions)), inventory)
    line = ChannelAffine(np.ones(4), np.zeros(4))
    correction = correction_tensors(CacheCorrection({(1, OUTPUT): (line,)}))
    digest, table = make_table(TableIdentity.of(COLUMN, plain, condition), correction)
    corrected = Schedule(n_steps=4, cache=plain.cache, cache_correction=digest)
    return (
        ScheduleFile(schedule=plain, condition=condition),
        ScheduleFile(schedule=corrected, condition=condition, tables={digest: table}),
    )


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"use_karras_sigmas": True}, "use_karras_sigmas .* was its default .*, and is true here"),
        ({"algorithm_type": "sde-dpmsolver++"}, 'algorithm_type .* and is "sde-dpmsolver'),
        ({"solver_order": 3}, "solver_order .* is 3 here"),
        ({"thresholding": True}, "thresholding .* is true here"),
    ],
)
def test_another_setting_is_refused_with_tables_and_warns_without(
    pixart_pipe: Any, setting: dict[str, Any], said: str
) -> None:
    plain, with_table = files(pixart_pipe)
    own = pixart_pipe.scheduler
    pixart_pipe.scheduler = make_scheduler(type(own).__name__, {**own.config, **setting})
    try:
        with pytest.raises(ScheduleMismatchError, match=f"tables of a schedule fit one sampler; {said}"):
            apply(pixart_pipe, with_table)
        with pytest.warns(UserWarning, match=said):
            apply(pixart_pipe, plain)
    finally:
        remove(pixart_pipe)
        pixart_pipe.scheduler = own
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with applied(pixart_pipe, with_table):
            pass


def test_a_setting_is_told_from_its_class_s_default_and_survives_a_file(pixart_pipe: Any) -> None:
    own = pixart_pipe.scheduler
    same = make_scheduler(
        type(own).__name__, {**own.config, "lambda_min_clipped": -float("inf"), "sample_max_value": 1}
    )
    assert changed_settings(same) == changed_settings(own)
    other = make_scheduler(type(own).__name__, {**own.config, "sample_max_value": 2, "somebody_else_s": 1})
    assert set(changed_settings(other)) - set(changed_settings(own)) == {("sample_max_value", "2")}
    condition = condition_of(pixart_pipe, scheduler_config=changed_settings(other))
    assert condition_from_json(condition.to_json()) == condition
    older = condition_of(pixart_pipe)
    assert "scheduler_config" not in older.to_json()
    assert condition_from_json(older.to_json()) == older


@pytest.mark.parametrize("column", ["cache", "solver", "policy"])
@pytest.mark.parametrize("name", ["mini-pixart", "mini-sd"])
def test_another_guidance_scale_warns_once_whether_or_not_the_pipeline_says_it(
    name: str, column: str, pixart_pipe: Any, sd_pipe: Any, small_args: Any
) -> None:
    pipe = pixart_pipe if name == "mini-pixart" else sd_pipe
    inventory, kwargs = list_inventory(pipe), small_args(name)
    plain = schedule_of(column, inventory, n_calls=4 if name == "mini-pixart" else 5)
    condition = condition_of(pipe, guidance_scale=float(kwargs["guidance_scale"]))
    with applied(pipe, ScheduleFile(schedule=plain, condition=condition)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            run(pipe, kwargs)
        with pytest.warns(UserWarning, match=r"measured at guidance scale .*, this run has 7: its speed and quality"):
            run(pipe, kwargs, guidance_scale=7.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            run(pipe, kwargs, guidance_scale=7.0)


def schedule_of(column: str, inventory: Inventory, n_calls: int) -> Schedule:
    """Four steps with this column alone."""
    if column == "solver":
        row = SolverStep(view="data", domain="lambda", order=1)
        return Schedule(n_steps=4, time=(999.0, 750.0, 500.0, 250.0), solver=(row,) * 4)
    if column == "policy":
        return Schedule(n_steps=4, policy=CachePolicy(kind=PolicyKind.SADA, threshold=1.0, order=2))
    actions = np.zeros((n_calls, len(inventory)))
    actions[1, inventory.outermost] = 1
    return canonical_schedule(Schedule(n_steps=4, cache=CachePlan.from_array(actions)), inventory)


def test_a_policy_and_a_quantization_both_see_the_steps(pixart_pipe: Any, small_args: Any) -> None:
    """This pipeline does not say its guidance scale, so that a table watches the first step, and SADA all of them."""
    kwargs = {**small_args("mini-pixart"), "num_inference_steps": 8}
    policy = CachePolicy(kind=PolicyKind.SADA, threshold=1.0, order=2)
    plain = Schedule(n_steps=8, policy=policy)
    attach(pixart_pipe, plain)
    alone = run(pixart_pipe, kwargs)
    remove(pixart_pipe)
    assert not torch.equal(alone, run(pixart_pipe, kwargs)), "nothing was skipped"
    shape = tuple(alone.shape)
    _attach(
        pixart_pipe,
        Schedule(n_steps=8, policy=policy, quantization="a" * 64),
        tables=AppliedTables(quantization=Quantization({})),
        measured=MeasuredRun(latent_shape=shape, guidance_scale=float(kwargs["guidance_scale"])),
    )
    try:
        assert torch.equal(run(pixart_pipe, kwargs), alone)
    finally:
        remove(pixart_pipe)
