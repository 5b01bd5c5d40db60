import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor

from autotune.search.solver_predictor import SolverPredictor, held_out_tau

Array = NDArray[np.float64]


def landscape(n: int, seed: int = 0, dimensions: int = 6) -> tuple[Array, Array]:
    """Points and a smooth score with its minimum at 0.3 in each dimension."""
    x = np.random.default_rng(seed).standard_normal((n, dimensions))
    return x, np.log(0.1 + ((x - 0.3) ** 2).mean(axis=1))


def test_it_ranks_points_that_it_has_not_seen() -> None:
    x, y = landscape(120)
    predictor = SolverPredictor(list(x), y.tolist())
    new, truth = landscape(200, seed=1)
    mean, deviation = predictor.predict(new)
    assert np.corrcoef(mean, truth)[0, 1] > 0.9
    assert np.all(deviation > 0)
    assert held_out_tau(list(x), y.tolist(), 0) > 0.7


def test_no_kernel_is_fitted_to_what_it_is_judged_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[tuple[int, object]] = []
    real = GaussianProcessRegressor.fit

    def fit(self: GaussianProcessRegressor, x: Array, y: Array) -> GaussianProcessRegressor:
        fits.append((len(x), self.optimizer))
        return real(self, x, y)

    monkeypatch.setattr(GaussianProcessRegressor, "fit", fit)
    x, y = landscape(30)
    held_out_tau(list(x), y.tolist(), 0)
    assert fits == [(24, "fmin_l_bfgs_b")] * 5


def test_it_knows_where_it_knows_little() -> None:
    x, y = landscape(80)
    _, deviation = SolverPredictor(list(x), y.tolist()).predict(np.array([x[0], np.full(6, 9.0)]))
    assert deviation[1] > 3 * deviation[0]


@pytest.mark.parametrize("n", [2, 3, 4, 10, 11, 25])
def test_few_samples_are_enough_to_run(n: int) -> None:
    x, y = landscape(n)
    predictor = SolverPredictor(list(x), y.tolist())
    mean, deviation = predictor.predict(x)
    assert np.all(np.isfinite([mean, deviation]))
    assert -1.0 <= held_out_tau(list(x), y.tolist(), 0) <= 1.0


def test_constant_entries_have_no_say() -> None:
    x, y = landscape(40)
    padded = np.c_[x, np.full((40, 3), 7.0)]
    plain = SolverPredictor(list(x), y.tolist())
    other = SolverPredictor(list(padded), y.tolist())
    assert other.scaled(padded).shape == (40, 6)
    new, _ = landscape(5, seed=1)
    np.testing.assert_allclose(
        other.predict(np.c_[new, np.full((5, 3), 99.0)])[0], plain.predict(new)[0], rtol=1e-4, atol=1e-4
    )


def test_units_of_the_encoding_have_no_say() -> None:
    x, y = landscape(40)
    units = np.array([1e-4, 1.0, 1e4, 3.0, 0.5, 20.0])
    new, _ = landscape(20, seed=1)
    plain = SolverPredictor(list(x), y.tolist()).predict(new)
    other = SolverPredictor(list(x * units + 5.0 * units), y.tolist()).predict(new * units + 5.0 * units)
    np.testing.assert_allclose(other[0], plain[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(other[1], plain[1], rtol=1e-2, atol=1e-3)


def test_how_bad_a_bad_schedule_is_has_no_say() -> None:
    x, y = landscape(60)
    worse = np.where(y > 2.0 * np.median(y) - y.min(), 1e6, y)
    worse[np.argmax(y)] = 1e6
    capped = SolverPredictor(list(x), y.tolist()).predict(x)[0]
    np.testing.assert_allclose(SolverPredictor(list(x), worse.tolist()).predict(x)[0], capped, atol=0.25)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_schedules_that_look_alike_are_told_apart_by_nothing(n: int) -> None:
    _, y = landscape(n)
    predictor = SolverPredictor([np.ones(5)] * n, y.tolist())
    mean, deviation = predictor.predict(np.array([np.ones(5), np.full(5, 3.0)]))
    assert mean[0] == mean[1]
    assert np.all(np.isfinite([mean, deviation]))
    assert held_out_tau([np.ones(5)] * n, y.tolist(), 0) == 0.0


@pytest.mark.parametrize("n", [2, 4, 12])
def test_scores_without_differences_have_no_tau(n: int) -> None:
    x, _ = landscape(n)
    assert held_out_tau(list(x), [1.0] * n, 0) == 0.0


@pytest.mark.parametrize("scores", [[1.0] * 12, [0.0] * 11 + [5.0]])
def test_scores_without_differences_are_no_fault(scores: list[float]) -> None:
    x, _ = landscape(12)
    predictor = SolverPredictor(list(x), scores)
    mean, _ = predictor.predict(x)
    assert np.all(np.isfinite(mean))


def test_it_is_the_same_each_time() -> None:
    x, y = landscape(30)
    first, second = (SolverPredictor(list(x), y.tolist()).predict(x)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
