"""Named samplers: the orders, views and relaxations that they are made of."""

import pytest

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import Flow, NoiseSchedule, VariancePreserving
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import SOLVERS, make_solver

VP = VariancePreserving(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)


def unified(name: str, n: int, noise: NoiseSchedule) -> list[SolverStep]:
    steps = make_solver(name, n, noise)
    return [step for step in steps if isinstance(step, SolverStep)]


@pytest.mark.parametrize(
    ("name", "orders"),
    [
        ("euler", [1, 1, 1, 1, 1, 1]),
        ("dpmpp-2m", [1, 2, 2, 2, 2, 1]),
        ("unipc-2", [1, 2, 2, 2, 2, 1]),
        ("unipc-3", [1, 2, 3, 3, 2, 1]),
        ("ab3", [1, 2, 3, 3, 3, 3]),
        ("dpmpp-3m", [1, 2, 3, 3, 2, 1]),
        ("unipc-6", [1, 2, 3, 3, 2, 1]),
        ("ghvb-3.8", [1, 2, 3, 4, 4, 4]),
    ],
)
def test_orders_warm_up_and_fall(name: str, orders: list[int]) -> None:
    assert [step.order for step in make_solver(name, 6, VP)] == orders


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_no_step_asks_for_history_that_is_not_there(name: str, n: int) -> None:
    for noise in (VP, Flow()):
        steps = make_solver(name, n, noise)
        assert len(steps) == n
        assert all(step.order <= i + 1 for i, step in enumerate(steps))
        assert not steps[-1].corrector


def test_views_follow_the_noise_schedule() -> None:
    assert {(s.view, s.domain) for s in unified("ab2", 4, Flow())} == {("velocity", "sigma")}
    assert {(s.view, s.domain) for s in unified("ab2", 4, VP)} == {("noise", "sigma")}
    assert {(s.view, s.domain) for s in unified("euler", 4, Flow())} == {("velocity", "sigma")}
    assert {(s.view, s.domain) for s in unified("euler", 4, VP)} == {("data", "lambda")}


def test_relaxations_and_correctors() -> None:
    assert {s.relaxation for s in unified("dpmpp-2m", 4, VP)} == {"b2"}
    assert {s.relaxation for s in unified("dpmpp-2m-heun", 4, VP)} == {"taylor"}
    assert {s.relaxation for s in unified("unipc-2-b1", 4, VP)} == {"b1"}
    assert [s.corrector for s in unified("unipc-2", 4, VP)] == [True, True, True, False]
    assert not any(s.corrector for s in unified("dpmpp-2m", 4, VP))


def test_only_short_runs_of_the_multistep_dpm_solvers_fall_to_order_two() -> None:
    assert [step.order for step in make_solver("dpmpp-3m", 15, VP)[-3:]] == [3, 3, 1]
    assert [step.order for step in make_solver("deis-3", 14, VP)[-3:]] == [3, 2, 1]
    assert [step.order for step in make_solver("unipc-3", 15, VP)[-3:]] == [3, 2, 1]


def test_single_step_methods_start_every_call_of_a_step_at_its_first() -> None:
    assert [step.origin for step in make_solver("dpmpp-2s", 6, VP)] == [0, 1, 0, 1, 0, 0]
    assert [step.origin for step in make_solver("dpmpp-3s", 8, VP)] == [0, 1, 2, 0, 1, 2, 0, 0]
    assert [step.origin for step in make_solver("heun", 5, VP)] == [0, 1, 0, 1, 0]


def test_unknown_names_and_counts_are_refused() -> None:
    with pytest.raises(ScheduleError, match="unipc-2"):
        make_solver("unipc", 4, VP)
    with pytest.raises(ScheduleError, match="at least one step"):
        make_solver("euler", 0, VP)
