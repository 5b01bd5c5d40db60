import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.evaluators.small_flux import small_flux_condition, small_flux_inventory
from autotune.search.fewer_steps import RECIPES, Recipe, recipe_schedule
from autotune.search.searcher import SearchContext
from autotune.search.solver_encoding import BOUNDS, MAX_ORDER, SolverEncoding, SolverPoint
from autotune.spaces.condition import Condition
from autotune.spaces.mean_reverting import MeanReverting
from autotune.spaces.momentum_step import MomentumStep
from autotune.spaces.noise_schedule import Flow, KnownNoise, VariancePreserving
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.time_grid import uniform_lambda

INVENTORY = small_flux_inventory()
SCALED = VariancePreserving(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
PREDICTIONS: dict[str, Prediction] = {"flow": "velocity", "vp": "noise", "reverting": "data"}
NOISES: dict[str, KnownNoise] = {
    "flow": Flow(mu=1.15),
    "vp": SCALED,
    "reverting": MeanReverting(drift="cosine", stationary_std=0.5),
}


def condition(name: str, n_steps: int = 50) -> Condition:
    noise = NOISES[name]
    return dataclasses.replace(
        small_flux_condition(INVENTORY, n_steps),
        noise_schedule=noise,
        prediction=PREDICTIONS[name],
        start_timestep=noise.t_max,
    )


def encoding(name: str, n_steps: int = 50) -> SolverEncoding:
    return SolverEncoding(condition(name, n_steps), INVENTORY)


def plain_point(**changes: object) -> SolverPoint:
    values: dict[str, object] = {
        "n_steps": 8, "form": "data", "order": 2, "relaxation": "b2", "corrector": True, "analytic_start": False,
        "end": 0.8, "first_gap": 0.0, "tilt": 0.0, "bend": 0.0, "last_gap": 0.0, "slope": 1.0, "tail_slope": 1.0,
    } | changes  # fmt: skip
    return SolverPoint(**values)  # type: ignore[arg-type]


def points(n_steps: int = 50) -> st.SearchStrategy[SolverPoint]:
    return st.builds(
        SolverPoint,
        n_steps=st.integers(*encoding("flow", n_steps).step_range),
        form=st.sampled_from(["data", "noise", "straight"]),
        order=st.integers(1, MAX_ORDER),
        relaxation=st.sampled_from(["taylor", "b1", "b2"]),
        corrector=st.booleans(),
        analytic_start=st.booleans(),
        **{name: st.floats(*bounds) for name, bounds in BOUNDS.items()},
    )


@pytest.mark.parametrize("name", ["flow", "vp"])
@given(point=points())
def test_every_point_is_a_valid_program_between_pinned_ends(name: str, point: SolverPoint) -> None:
    space = encoding(name)
    noise = space.condition.noise_schedule
    schedule = space.decode(point)
    time, _ = schedule.solver_columns
    assert np.all(np.diff((noise.t_max, *time) if point.analytic_start else time) < 0)
    assert (schedule.start if point.analytic_start else time[0]) == noise.t_max
    # One training step below a flow's pure noise, where lambda is finite, to the cleanest trained timestep.
    top, clean = (999.0, 1.0) if name == "flow" else (999.0, 0.0)
    low, high = float(noise.lam(top)), float(noise.lam(clean))
    assert float(noise.lam(time[-1])) == pytest.approx(low + point.end * (high - low), abs=1e-6)
    compile_program(schedule, noise, space.condition.prediction)
    assert canonical_schedule(schedule, INVENTORY) == schedule


@pytest.mark.parametrize("n_steps", [1, 2, 3, 4, 5, 9, 20, 50])
def test_step_counts_lie_below_the_pipelines_own(n_steps: int) -> None:
    low, high = encoding("flow", n_steps).step_range
    assert 1 <= low <= high == max(1, n_steps - 1)
    assert len(encoding("flow", n_steps).decode(plain_point(n_steps=low)).time or ()) == low


@pytest.mark.parametrize("name", ["flow", "vp"])
def test_the_point_without_shape_is_uniform_in_lambda(name: str) -> None:
    noise = NOISES[name]
    time, _ = encoding(name).decode(plain_point()).solver_columns
    assert time == pytest.approx(uniform_lambda(noise, 8, t_end=time[-1]))


def test_the_numbers_of_the_grid_do_what_they_say() -> None:
    """Ratios of neighbouring gaps in lambda are the exponentials of differences in the exponent's polynomial."""

    def gaps(**changes: object) -> np.ndarray:
        time, _ = encoding("vp").decode(plain_point(n_steps=6, **changes)).solver_columns
        return np.diff(SCALED.lam(time))

    even = gaps()
    assert even == pytest.approx(np.full(5, even[0]))
    assert gaps(first_gap=1.0)[0] / gaps(first_gap=1.0)[1] == pytest.approx(np.e)
    assert gaps(last_gap=1.0)[-1] / gaps(last_gap=1.0)[-2] == pytest.approx(np.e)
    assert gaps(tilt=0.5)[1:] / gaps(tilt=0.5)[:-1] == pytest.approx(np.full(4, np.exp(0.25)))
    assert gaps(bend=1.0)[0] / gaps(bend=1.0)[2] == pytest.approx(np.e)
    assert gaps(bend=1.0)[-1] / gaps(bend=1.0)[2] == pytest.approx(np.e)
    assert gaps(analytic_start=True).sum() == pytest.approx(even.sum() * 5 / 6)


def test_slopes_run_from_the_first_row_to_the_last() -> None:
    point = plain_point(form="straight", corrector=False, n_steps=5, slope=0.9, tail_slope=1.1)
    _, rows = encoding("flow").decode(point).solver_columns
    assert [row.slope for row in rows if isinstance(row, SolverStep)] == pytest.approx([1.0, 0.95, 1.0, 1.05, 1.1])


def own_grid(name: str, n: int) -> tuple[float, ...]:
    if name == "flow":
        sigma = np.linspace(1.0, 1.0 / n, n)
        return tuple((1000.0 * np.exp(1.15) / (np.exp(1.15) + 1.0 / sigma - 1.0)).tolist())
    return tuple((np.arange(n)[::-1] * (1000 // n) + 1.0).tolist())  # "leading" with offset 1, as Stable Diffusion's


@pytest.mark.parametrize("n", [4, 6, 10, 16])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.solver}-{recipe.grid}")
@pytest.mark.parametrize("name", ["flow", "vp"])
def test_a_preset_comes_back_with_its_formulas_and_nearly_its_grid(name: str, recipe: Recipe, n: int) -> None:
    space = encoding(name)
    context = SearchContext(
        condition=space.condition, inventory=INVENTORY, own_timesteps=lambda count: own_grid(name, count)
    )
    made = recipe_schedule(recipe, context, n)
    assert made is not None
    preset = canonical_schedule(made, INVENTORY)
    point = space.encode(preset)
    assert point is not None
    decoded = space.decode(point)
    assert decoded.solver == preset.solver
    assert space.grid_error(point, preset) < (1e-6 if recipe.grid == "uniform lambda" or n == 4 else 0.35)


@given(point=points())
def test_decoding_and_encoding_again_finds_the_point(point: SolverPoint) -> None:
    """Where the slope is constant; up to four gaps, several grids of the space are the same."""
    space = encoding("vp")
    point = dataclasses.replace(point, tail_slope=point.slope)
    schedule = space.decode(point)
    again = space.encode(schedule)
    assert again is not None
    assert space.decode(again).solver == schedule.solver
    if point.n_steps - 1 + point.analytic_start > 4:
        assert space.grid_error(again, schedule) < 1e-6
        for name in ("end", "first_gap", "tilt", "bend", "last_gap"):
            assert getattr(again, name) == pytest.approx(getattr(point, name), abs=1e-6)
    else:
        assert space.grid_error(again, schedule) < 0.35


def test_what_no_point_expresses_has_no_encoding() -> None:
    space = encoding("flow", 20)
    schedule = space.decode(plain_point(order=3))
    time, rows = schedule.solver_columns
    assert space.encode(schedule) is not None
    steps = [row for row in rows if isinstance(row, SolverStep)]
    other_solvers = [
        (MomentumStep(method="hb", order=1, beta=1.0), *rows[1:]),
        (*rows[:3], MomentumStep(method="hb", order=2, beta=0.8), *rows[4:]),
        (*rows[:3], dataclasses.replace(steps[3], curvature=0.5), *rows[4:]),
        (*rows[:3], dataclasses.replace(steps[3], slope=0.9), *rows[4:]),
        (*rows[:3], dataclasses.replace(steps[3], corrector=False), *rows[4:]),
        tuple(dataclasses.replace(step, slope=2.0) for step in steps),
    ]
    others = [
        Schedule(n_steps=8),
        Schedule(n_steps=20, time=own_grid("flow", 20), solver=(steps[0],) * 20),
        dataclasses.replace(schedule, compensation=(1.1,) * 8),
        dataclasses.replace(schedule, start=999.5, time=(999.0, *time[1:])),
        *(dataclasses.replace(schedule, solver=solver) for solver in other_solvers),
    ]
    assert [space.encode(canonical_schedule(other, INVENTORY)) for other in others] == [None] * len(others)


def test_a_mean_reverting_process_has_no_analytic_start() -> None:
    space = encoding("reverting")
    assert not space.allows_analytic_start
    compile_program(space.decode(plain_point()), space.condition.noise_schedule, "data")
