import json

import pytest

from autotune.spaces.column_fit import ColumnFit, fit_from_bytes, precision_of
from autotune.spaces.errors import StorageError, UsageError
from autotune.spaces.program_correction import ProgramCorrection
from autotune.spaces.schedule import Schedule

from .noise_cases import FLOW, named

PLAN = named("ab2", FLOW, 3)
CORRECTION = ProgramCorrection(
    timesteps=(0.0, 1.5, -2.0), states=((0.1,), (0.0, 0.2), (0.0, 0.0, 0.3)), outputs=((0.0,), (1e-17, 0.0), (0.0,) * 3)
)


def fit_of(**changes: object) -> ColumnFit:
    columns: dict[str, object] = {"n_steps": 3, "time": PLAN.time, "solver": PLAN.solver, **changes}
    return ColumnFit(schedule=Schedule(**columns), before=0.25, after=0.125, image_runs=1234)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "columns",
    [{"compensation": (1.0, 1.0, 0.9)}, {"correction": CORRECTION}, {"start": 1000.0, "time": (900.0, 9.0, 1.0)}],
)
def test_bytes_keep_all_but_whether_it_was_stopped(columns: dict[str, object]) -> None:
    fit = fit_of(**columns)
    assert fit_from_bytes(fit.to_bytes()) == fit


@pytest.mark.parametrize("name", ["w8a8", "w4a8", "w6.25a8", "w5.0625a8"])
def test_a_precision_has_a_name(name: str) -> None:
    assert str(precision_of(name)) == str(precision_of(name.upper())) == name


@pytest.mark.parametrize("name", ["w2a8", "w9a8", "w8a4", "w8", "int8", "w6.a8", "w-6a8", ""])
def test_other_names_are_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(UsageError, match=r"4 to 8 bits on average; got|or one between like w6\.25a8; got"):
        precision_of(name)


def test_its_cost_is_counted_in_network_calls() -> None:
    assert fit_of().network_calls == 3 * 1234


GOOD = json.loads(fit_of(compensation=(1.0, 1.0, 0.9)).to_bytes())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b"null",
        fit_of().to_bytes()[:-7],
        *(json.dumps({k: v for k, v in GOOD.items() if k != name}).encode() for name in GOOD),
        json.dumps(GOOD | {"before": "much"}).encode(),
        json.dumps(GOOD | {"image_runs": None}).encode(),
        json.dumps(GOOD | {"schedule": []}).encode(),
        json.dumps(GOOD | {"schedule": GOOD["schedule"] | {"time": [1.0, 2.0, 3.0]}}).encode(),
    ],
)
def test_damaged_bytes_are_an_error_with_a_remedy(data: bytes) -> None:
    """Not a ScheduleError, which stands for a schedule that has no such column."""
    with pytest.raises(StorageError, match=r"can't be read: .*; delete it"):
        fit_from_bytes(data)
