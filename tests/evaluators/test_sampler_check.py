"""Whether the pipeline's own sampler is set as it was when a schedule was measured."""

import warnings
from typing import Any

import numpy as np
import pytest

from autotune.evaluators.apply import applied, apply, remove
from autotune.evaluators.correction_table import COLUMN, correction_tensors
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.noise import changed_settings
from autotune.evaluators.schedule_table import make_table
from autotune.spaces.cache_correction import OUTPUT, CacheCorrection, ChannelAffine
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import condition_from_json
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile
from autotune.spaces.table_identity import TableIdentity

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
