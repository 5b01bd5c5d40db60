"""What a schedule file's numbers may be: a program that can be computed with, or one error that names the field."""

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule_file import parse_schedule_file

from .test_schedule_file import PUBLISHED, change, full_file, rows, text_of

DATA = {"view": "data", "domain": "lambda", "order": 1, "relaxation": "taylor", "corrector": False}
ADDENDS: dict[str, Any] = {"timesteps": [0] * 3, "states": [[0], [0] * 2, [0] * 3], "outputs": [[0], [0] * 2, [0] * 3]}

BAD = {
    "noise of 1e200": (
        rows(DATA | {"stochastic": 1e200}),
        r"solver\[0\]: solver stochastic must be a number in \[0, 10\]; got 1e\+200; keep",
    ),
    "guidance of 1e308": (
        change("schedule.solver.1.guidance_gain", 1e308),
        r"solver\[1\]: solver guidance_gain must be a number in \[-100, 100\]; got 1e\+308; keep",
    ),
    "gain of 1e308": (change("schedule.solver.2.state_gain", 1e308), r"solver\[2\]: solver state_gain must be"),
    "ratio of 50": (change("schedule.compensation.2", 50), r"compensation\[2\] must be .* \+-10; got 50.0; 1 changes"),
    "addend of 1e308": (
        change("schedule.correction", ADDENDS | {"states": [[0], [0, 0], [0, 0, 1e308]]}),
        r"correction.states\[2\]\[2\] must be a number within \+-1e\+09; got 1e\+308; 0 adds nothing",
    ),
    "times too close": (
        change("schedule.time", [1000.0, 400.00000001, 400.0]),
        r"coefficients of solver\[2\] must be at most 1e\+09 in size; got .*; "
        r"time\[1\] = 400.00000001 and time\[2\] = 400.0 are too close: move them apart",
    ),
    "times of one level": (
        change("schedule.time", [1000.0, 999.99999, 0.1]),
        r"got the same one for time\[0\] = 1000.0 and time\[1\] = 999.99999; move them apart",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_numbers_that_make_no_program_are_one_error_that_names_the_field(case: str, tmp_path: Path) -> None:
    edit, message = BAD[case]
    data = json.loads(text_of(tmp_path, full_file()))
    PUBLISHED.validate(data)
    edit(data)
    with pytest.raises(ScheduleError, match=message):
        parse_schedule_file(json.dumps(data))
    assert PUBLISHED.is_valid(data) == case.startswith("times")  # that two numbers are close, a schema can't say
