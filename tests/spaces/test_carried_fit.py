from dataclasses import replace

import numpy as np
import pytest
from tests.spaces.noise_cases import FLOW, SCALED

from autotune.spaces.carried_fit import call_gaps, carry_fit
from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import NoiseSchedule
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_step import FACTORS, SolverStep
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import called_twice, uniform_lambda

ROW = SolverStep(view="noise", domain="lambda", order=3, slope_points=2)


def plain(noise: NoiseSchedule, n: int, start: float = 980.0) -> Schedule:
    return Schedule(n_steps=n, time=tuple(uniform_lambda(noise, n, t_start=start, t_end=20.0)), solver=(ROW,) * n)


def moved(schedule: Schedule, noise: NoiseSchedule, share: float, factor: float) -> Schedule:
    """All times but the first by a share of the gap to the next one, and all factors by the same addend."""
    time, rows = schedule.solver_columns
    lam, gaps = call_gaps(time, noise)
    times = (time[0], *noise.t_from_lam(lam + share * gaps)[1:].tolist())
    changed = tuple(
        replace(row, **{name: getattr(row, name) + factor for name in FACTORS})
        for row in rows
        if isinstance(row, SolverStep)
    )
    return replace(schedule, time=times, solver=changed)


@pytest.mark.parametrize("noise", [FLOW, SCALED], ids=["flow", "scaled linear"])
def test_moves_keep_their_share_of_the_gaps_at_any_number_of_steps(noise: NoiseSchedule) -> None:
    start = plain(noise, 8)
    fitted = moved(start, noise, 0.2, 0.1)
    for n in (2, 5, 8, 13):
        target = plain(noise, n)
        carried, expected = carry_fit(start, fitted, target, noise), moved(target, noise, 0.2, 0.1)
        # The first time has no move, which the second one feels where it lies between the source's first two.
        sure = [i for i in range(n) if i == 0 or i / (n - 1) >= 1 / 7]
        times, wanted = np.array(carried.solver_columns[0]), np.array(expected.solver_columns[0])
        np.testing.assert_allclose(times[sure], wanted[sure], rtol=1e-9)
        for row, other in zip(carried.solver_columns[1], expected.solver_columns[1], strict=True):
            assert isinstance(row, SolverStep)
            assert isinstance(other, SolverStep)
            assert [getattr(row, name) for name in FACTORS] == pytest.approx([getattr(other, name) for name in FACTORS])


def test_a_fit_carried_to_its_own_start_is_the_fit() -> None:
    rng = np.random.default_rng(0)
    start = plain(FLOW, 6)
    time, _ = start.solver_columns
    lam, gaps = call_gaps(time, FLOW)
    times = FLOW.t_from_lam(lam + 0.4 * gaps * rng.uniform(-1, 1, 6))
    rows = tuple(replace(ROW, slope=float(rng.normal()), output_gain=float(rng.normal())) for _ in range(6))
    fitted = replace(start, time=(time[0], *times[1:].tolist()), solver=rows)
    carried = carry_fit(start, fitted, start, FLOW)
    np.testing.assert_allclose(carried.solver_columns[0], fitted.solver_columns[0], rtol=1e-12)
    assert [row.slope for row in carried.solver_columns[1]] == pytest.approx([row.slope for row in rows])  # type: ignore[union-attr]


def test_a_time_that_is_called_twice_moves_as_one() -> None:
    def heun(n_levels: int) -> Schedule:
        time = called_twice(uniform_lambda(FLOW, n_levels, t_start=980.0, t_end=20.0))
        return Schedule(n_steps=len(time), time=time, solver=make_solver("heun", len(time), FLOW))

    start, target = heun(4), heun(6)
    time, _ = start.solver_columns
    lam, gaps = call_gaps(time, FLOW)
    np.testing.assert_array_equal(gaps[1::2], gaps[2::2])
    fitted = replace(start, time=(time[0], *FLOW.t_from_lam(lam + 0.2 * gaps)[1:].tolist()))
    carried, _ = carry_fit(start, fitted, target, FLOW).solver_columns
    assert carried[1::2] == carried[2::2]
    lam, gaps = call_gaps(target.solver_columns[0], FLOW)
    np.testing.assert_allclose(carried[3::2], FLOW.t_from_lam(lam + 0.2 * gaps)[3::2], rtol=1e-9)


def test_the_first_time_moves_only_below_an_analytic_step() -> None:
    start = plain(FLOW, 5, start=900.0)
    time, rows = start.solver_columns
    fitted = replace(start, start=1000.0, time=(880.0, *time[1:]))
    held = carry_fit(start, fitted, start, FLOW)
    assert held.solver_columns[0][0] == 900.0
    free = carry_fit(replace(start, start=1000.0), fitted, replace(start, start=1000.0), FLOW)
    assert free.solver_columns[0][0] == pytest.approx(880.0, rel=1e-9)
    assert free.solver_columns[1] == rows


def test_rows_of_another_kind_keep_their_factors() -> None:
    start = plain(FLOW, 4)
    fitted = moved(start, FLOW, 0.0, 0.3)
    other = replace(start, solver=(*make_solver("euler", 3, FLOW), ROW))
    carried = carry_fit(start, fitted, other, FLOW).solver_columns[1]
    assert carried[:3] == other.solver_columns[1][:3]
    assert carried[3] == fitted.solver_columns[1][3]


def test_what_would_run_backwards_and_what_is_no_fit_is_refused() -> None:
    start = plain(FLOW, 4)
    lam, _ = call_gaps(start.solver_columns[0], FLOW)
    # The third time lies close before the fourth: moved back by most of that, it still follows the second, which moves
    # on by most of a long gap. Between even steps they would meet.
    near = FLOW.t_from_lam([lam[0], lam[1], lam[3] - 0.1, lam[3]]).tolist()
    far = FLOW.t_from_lam([lam[0], lam[1] + 0.9 * (lam[3] - 0.1 - lam[1]), lam[3] - 0.19, lam[3]]).tolist()
    source = replace(start, time=(start.solver_columns[0][0], *near[1:]))
    with pytest.raises(ScheduleError, match="would change the order of 4 times"):
        carry_fit(source, replace(source, time=(near[0], *far[1:])), start, FLOW)
    with pytest.raises(ScheduleError, match="keeps its number of steps; got 4 before and 5 after"):
        carry_fit(start, plain(FLOW, 5), start, FLOW)
