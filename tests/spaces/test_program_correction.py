import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.spaces.errors import ScheduleError
from autotune.spaces.program_correction import MAX_ADDEND, ProgramCorrection, Rows, correction_from_json
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash
from autotune.spaces.schedule_file import parse_schedule_file
from autotune.spaces.solver_program import compile_program

from .noise_cases import FLOW, named
from .test_schedule import INVENTORY
from .test_schedule_file import PUBLISHED, kept_in_file

N = 3
PLAN = named("unipc-2", FLOW, N)


def triangle(*values: float) -> Rows:
    return (values[:1], values[1:3], values[3:6])


ZERO = ProgramCorrection(timesteps=(0.0,) * N, states=triangle(*(0.0,) * 6), outputs=triangle(*(0.0,) * 6))
SOME = ProgramCorrection(
    timesteps=(0.0, 12.5, -1e4), states=triangle(0.0, 0.1, 0.2, 0.3, 0.4, 0.5), outputs=triangle(1, 2, 3, 4, 5, 6)
)
BROKEN = {
    "missing": {"timesteps": [0.0] * 3, "states": [[0.0], [0.0] * 2, [0.0] * 3]},
    "text": {"timesteps": ["0", 0, 0], "states": [], "outputs": []},
    "boolean": {"timesteps": [True, 0, 0], "states": [], "outputs": []},
    "flat": {"timesteps": [0, 0, 0], "states": [0, 0, 0], "outputs": []},
    "no list": {"timesteps": [0, 0, 0], "states": 1, "outputs": []},
    "no object": [1, 2],
}
NAMED = {
    "missing": "timesteps, states, outputs",
    "text": r"correction\.timesteps",
    "boolean": r"correction\.timesteps",
    "flat": r"correction\.states",
    "no list": r"correction\.states",
    "no object": "timesteps, states, outputs",
}


def with_correction(correction: ProgramCorrection | None) -> Schedule:
    return replace(PLAN, correction=correction)


@st.composite
def corrections(draw: st.DrawFn) -> ProgramCorrection:
    number = st.floats(-MAX_ADDEND, MAX_ADDEND)
    n = draw(st.integers(1, 5))

    def rows() -> Rows:
        return tuple(tuple(draw(st.lists(number, min_size=i + 1, max_size=i + 1))) for i in range(n))

    return ProgramCorrection(
        timesteps=tuple(draw(st.lists(number, min_size=n, max_size=n))), states=rows(), outputs=rows()
    )


@given(corrections())
def test_json_gives_it_back_bit_for_bit(correction: ProgramCorrection) -> None:
    assert correction_from_json(json.loads(json.dumps(correction.to_json()))) == correction


def test_schedule_json_and_file_keep_it_and_the_published_schema_knows_it(tmp_path: Path) -> None:
    plan = with_correction(SOME)
    data = kept_in_file(plan, tmp_path / "s.json")
    for name in ("timesteps", "states", "outputs"):
        changed = json.loads((tmp_path / "s.json").read_text())
        del changed["schedule"]["correction"][name]
        assert not PUBLISHED.is_valid(changed)
    data["schedule"]["correction"]["states"][2][1] += 0.5
    with pytest.raises(ScheduleError, match="hash must be the SHA-256"):
        parse_schedule_file(json.dumps(data))


def test_every_number_counts_for_the_hash() -> None:
    hashes = {schedule_hash(with_correction(c)) for c in (None, ZERO, SOME)}
    hashes |= {
        schedule_hash(with_correction(replace(ZERO, timesteps=(0.0, 1.0, 0.0)))),
        schedule_hash(with_correction(replace(ZERO, states=triangle(0, 0, 0, 0, 0, 1.0)))),
        schedule_hash(with_correction(replace(ZERO, outputs=triangle(0, 0, 0, 0, 0, 1.0)))),
    }
    assert len(hashes) == 6


def test_zeros_are_no_correction() -> None:
    assert ZERO.is_zero
    assert not SOME.is_zero
    assert canonical_schedule(with_correction(ZERO), INVENTORY) == canonical_schedule(PLAN, INVENTORY)
    assert canonical_schedule(with_correction(SOME), INVENTORY).correction == SOME
    program, plain = (compile_program(p, FLOW, "velocity") for p in (with_correction(ZERO), PLAN))
    np.testing.assert_array_equal(program.state_coefs, plain.state_coefs)
    np.testing.assert_array_equal(program.timesteps, plain.timesteps)


def test_it_is_added_to_the_coefficients_and_the_timesteps_stay_on_the_schedule() -> None:
    program, plain = (compile_program(p, FLOW, "velocity") for p in (with_correction(SOME), PLAN))
    np.testing.assert_array_equal(
        program.state_coefs, plain.state_coefs + np.array([[0.0, 0.0, 0.0], [0.1, 0.2, 0.0], [0.3, 0.4, 0.5]])
    )
    np.testing.assert_array_equal(
        program.output_coefs, plain.output_coefs + np.array([[1.0, 0.0, 0.0], [2.0, 3.0, 0.0], [4.0, 5.0, 6.0]])
    )
    np.testing.assert_array_equal(program.timesteps, [1000.0, plain.timesteps[1] + 12.5, 0.0])
    far = replace(ZERO, timesteps=(5.0, 0.0, 0.0))
    assert compile_program(with_correction(far), FLOW, "velocity").timesteps[0] == FLOW.t_max


@pytest.mark.parametrize("name", ["states", "outputs"])
@pytest.mark.parametrize("rows", [(), ((0.0,),), ((0.0,), (0.0,), (0.0,)), ((0.0,) * 3,) * 3])
def test_a_wrong_shape_is_refused_by_name(name: str, rows: Rows) -> None:
    with pytest.raises(ScheduleError, match=rf"correction\.{name} must have rows of 1 \.\. 3 numbers"):
        replace(ZERO, **{name: rows})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e308, -2 * MAX_ADDEND])
def test_a_number_that_is_too_large_is_refused_by_name(value: float) -> None:
    with pytest.raises(ScheduleError, match=r"correction\.timesteps\[1\] must be a number within \+-1e\+09; got "):
        replace(ZERO, timesteps=(0.0, value, 0.0))
    for name in ("states", "outputs"):
        with pytest.raises(ScheduleError, match=rf"correction\.{name}\[2\]\[1\] must be a number within"):
            replace(ZERO, **{name: triangle(0.0, 0.0, 0.0, 0.0, value, 0.0)})  # type: ignore[arg-type]


def test_it_must_have_as_many_rows_as_the_schedule_and_a_solver() -> None:
    with pytest.raises(ScheduleError, match="correction must have one row per step; got 3 rows for 4 steps"):
        replace(named("unipc-2", FLOW, 4), correction=ZERO)
    with pytest.raises(ScheduleError, match="correction needs the columns time and solver"):
        Schedule(n_steps=N, correction=ZERO)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_json_is_refused_by_name(case: str) -> None:
    with pytest.raises(ScheduleError, match=NAMED[case]):
        correction_from_json(BROKEN[case])
