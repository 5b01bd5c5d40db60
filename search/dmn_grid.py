"""DMN: the time grid that minimises a bound on the error of a multistep sampler, without a network."""

import numpy as np

from autotune.spaces.noise_schedule import Array, NoiseSchedule
from autotune.spaces.time_grid import grid_ends, pinned_times

MAX_ORDER = 3

N_QUADRATURE = 3
"""Steps at the start whose errors are added in quadrature where there are few steps."""

FEW_STEPS = 7

_SMALLEST_GAP = 0.02
"""Least distance between levels, as a share of the mean one."""

_DIFFERENCE = 1e-5


def dmn(noise: NoiseSchedule, n: int, *, t_start: float | None = None, t_end: float | None = None) -> tuple[float, ...]:
    """`n` timesteps that minimise the error bound of a multistep sampler (Xue et al. 2024, arXiv 2402.17376).

    The levels between the ends are moved in lambda by SciPy's `trust-constr`, from even spacing in t, the paper's start
    for latent models. Up to `FEW_STEPS` calls that finds the minimum. With more, the bound has kinks, and the optimiser
    stops at one within a tenth of the least value around. That is as well: far lower values lie elsewhere, where most
    levels crowd at the clean end with weights that cancel, and a sampler fails on such a grid.

    Args:
        noise: what the timesteps stand for.
        n: number of network calls.
        t_start: first timestep; the largest one if None.
        t_end: where the n-th step ends, at which the bound is taken; the cleanest timestep that the model was trained
            on if None. The network is not called there: the last call is noisier.

    Raises:
        ScheduleError: `n` is not positive, or the ends are out of order.
    """
    start, end, lam_start, lam_end = grid_ends(noise, n, t_start, t_end)
    if n == 1:
        return (start,)
    from scipy.optimize import LinearConstraint, minimize  # half a second to import

    def bound(interior: Array) -> Array:
        ends = np.ones((len(interior), 1))
        return error_bound(noise, np.hstack([lam_start * ends, interior, lam_end * ends])) / scale

    def slope(interior: Array) -> Array:
        moves = _DIFFERENCE * np.eye(len(interior))
        values = bound(np.concatenate([interior + moves, interior - moves]))
        return (values[: len(interior)] - values[len(interior) :]) / (2.0 * _DIFFERENCE)

    first, scale = start_levels(noise, n, start, end)[1:-1], 1.0
    scale = float(bound(first[None])[0])
    gaps = np.diff(np.eye(n + 1), axis=0)
    least = _SMALLEST_GAP * (lam_end - lam_start) / n - gaps[:, 0] * lam_start - gaps[:, -1] * lam_end
    result = minimize(
        lambda interior: float(bound(interior[None])[0]),
        first,
        jac=slope,
        method="trust-constr",
        constraints=LinearConstraint(gaps[:, 1:-1], least, np.inf, keep_feasible=True),
        options={"maxiter": 500},
    )
    return pinned_times(noise, np.concatenate([[lam_start], result.x, [lam_end]]), start, end)[:-1]


def start_levels(noise: NoiseSchedule, n: int, start: float, end: float) -> Array:
    """Lambda (n + 1,) of the levels that the optimiser starts from: even in t, mixed with a little of even in lambda.

    Even spacing in t alone can break the least gap, as near the noisy end of a variance-preserving schedule.
    """
    _, _, lam_start, lam_end = grid_ends(noise, n, start, end)
    lam = noise.lam(np.linspace(start, end, n + 1))
    lam[0] = lam_start
    return np.asarray(_SMALLEST_GAP * np.linspace(lam_start, lam_end, n + 1) + (1.0 - _SMALLEST_GAP) * lam)


def error_bound(noise: NoiseSchedule, lam: Array) -> Array:
    """The bounds (batch,) for levels `lam` (batch, n + 1) of n steps: of the last state's error, over sigma there.

    x / sigma is the integral of e^lambda D(lambda), D the data prediction, so the sampler's state is a weighted sum of
    what the network put out, and its error at most the sum of the weights' sizes times the errors of D. Those are taken
    as sigma^2 / alpha, the paper's choice for latent models. An output's weight is summed over the steps that read it;
    but up to `FEW_STEPS` calls the first `N_QUADRATURE` steps count apart, each as the root of its terms' squares.
    """
    t = noise.t_from_lam(lam[:, :-1])
    terms = multistep_weights(lam) * (noise.sigma(t) ** 2 / noise.alpha(t))[:, None, :]
    n_apart = N_QUADRATURE if lam.shape[1] - 1 <= FEW_STEPS else 0
    apart, together = terms[:, :n_apart], terms[:, n_apart:]
    bounds = np.sqrt((apart**2).sum(axis=2)).sum(axis=1) + np.abs(together.sum(axis=1)).sum(axis=1)
    return np.asarray(bounds)


def multistep_weights(lam: Array) -> Array:
    """Weights (batch, n, n) of n steps on the n network outputs, for levels `lam` (batch, n + 1).

    Entry [b, i, j] is the integral of e^lambda over step i times the Lagrange polynomial of output j among those that
    the step reads. Orders go 1, 2, 3, .., 3, 2, 1.
    """
    n = lam.shape[1] - 1
    weights = np.zeros((len(lam), n, n))
    for i in range(n):
        order = min(i + 1, MAX_ORDER, n - i)
        nodes = slice(i - order + 1, i + 1)
        offsets = lam[:, nodes] - lam[:, i, None]
        powers = offsets[:, None, :] ** np.arange(order)[:, None]
        moments = np.exp(lam[:, i, None]) * _moments(lam[:, i + 1] - lam[:, i], order)
        weights[:, i, nodes] = np.linalg.solve(powers, moments[..., None])[..., 0]
    return weights


def _moments(h: Array, count: int) -> Array:
    """Integrals (batch, count) of e^u u^m over u from 0 to h, by parts."""
    values = [np.expm1(h)]
    for m in range(1, count):
        values.append(h**m * np.exp(h) - m * values[-1])
    return np.stack(values, axis=1)
