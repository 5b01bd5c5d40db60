"""Grids of noise levels: n model timesteps, strictly decreasing, from the noisiest to the last network call.

The step from the last timestep to the clean end is implied. A pipeline's own grid comes from its scheduler
(`autotune.evaluators.noise.own_timesteps`).
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import Array, Flow, NoiseSchedule


def uniform_lambda(
    noise: NoiseSchedule, n: int, *, t_start: float | None = None, t_end: float | None = None
) -> tuple[float, ...]:
    """`n` timesteps at equal distances in lambda, both ends included (Lu et al. 2022, arXiv 2206.00927).

    Args:
        noise: what the timesteps stand for.
        n: number of network calls.
        t_start: first timestep; the largest one if None.
        t_end: last timestep; the cleanest that the model was trained on if None (0, or 1 where timestep 0
            has no noise).

    Raises:
        ScheduleError: `n` is not positive, or the ends are out of order.
    """
    start, end, lam_start, lam_end = grid_ends(noise, n, t_start, t_end)
    return pinned_times(noise, np.linspace(lam_start, lam_end, n), start, end)


def karras(
    noise: NoiseSchedule, n: int, *, t_start: float | None = None, t_end: float | None = None, rho: float = 7.0
) -> tuple[float, ...]:
    """`n` timesteps at equal distances in (sigma / alpha)^(1 / rho) (Karras et al. 2022, arXiv 2206.00364, eq. 5).

    Arguments and errors as for `uniform_lambda`; `rho` must be positive.
    """
    if not rho > 0:
        raise ScheduleError(f"rho of a Karras grid must be positive; got {rho}")
    start, end, lam_start, lam_end = grid_ends(noise, n, t_start, t_end)
    roots = np.linspace(np.exp(-lam_start / rho), np.exp(-lam_end / rho), n)
    return pinned_times(noise, -rho * np.log(roots), start, end)


def shifted_flow(noise: Flow, n: int, *, mu: float | None = None) -> tuple[float, ...]:
    """FLUX's grid: sigma = 1, (n-1)/n, .., 1/n, then shifted by `mu` (that of `noise` if None).

    Raises:
        ScheduleError: `n` is not positive.
    """
    if n < 1:
        raise ScheduleError(f"a time grid needs at least one timestep; got n={n}")
    times = noise.n_train * np.linspace(1.0, 1.0 / n, n)
    return shift_flow_times(times.tolist(), noise.mu if mu is None else mu, n_train=noise.n_train)


def shift_flow_times(times: Iterable[float], mu: float, *, n_train: int = 1000) -> tuple[float, ...]:
    """Timesteps of a flow after lambda' = lambda - mu, that is sigma' = e^mu / (e^mu + 1/sigma - 1).

    Pure noise stays where it is. Used to move a schedule to the time shift of another resolution.
    """
    # In this form sigma = 1 stays 1 exactly, and sigma = 0 needs no case of its own.
    shrink = math.exp(-mu)
    return tuple(t / (t / n_train + (1.0 - t / n_train) * shrink) for t in times)


def called_twice(times: Sequence[float]) -> tuple[float, ...]:
    """The grid of Heun's method: t_0, t_1, t_1, t_2, t_2, ..; n levels make 2n - 1 network calls."""
    return (*times[:1], *(t for t in times[1:] for _ in range(2)))


def grid_ends(
    noise: NoiseSchedule, n: int, t_start: float | None, t_end: float | None
) -> tuple[float, float, float, float]:
    """(first timestep, last timestep, lambda of each); defaults and errors as for `uniform_lambda`.

    Pure noise of a flow has lambda = -inf; the interval in lambda starts one training step below it.
    """
    if n < 1:
        raise ScheduleError(f"a time grid needs at least one timestep; got n={n}")
    flow = isinstance(noise, Flow)
    clean_at_0 = float(noise.sigma(0.0)) == 0.0
    start = noise.t_max if t_start is None else float(t_start)
    end = (1.0 if clean_at_0 else 0.0) if t_end is None else float(t_end)
    if end < 0.0 or (clean_at_0 and end == 0.0) or not end < start <= noise.t_max:
        raise ScheduleError(
            f"0 <= t_end < t_start <= {noise.t_max:g} must hold (t_end above 0 on a flow or a mean-reverting "
            f"process); got "
            f"{t_start=}, {t_end=}"
        )
    lam_start = float(noise.lam(min(start, noise.t_max - 1.0) if flow else start))
    return start, end, lam_start, float(noise.lam(end))


def pinned_times(noise: NoiseSchedule, lam: Array, start: float, end: float) -> tuple[float, ...]:
    """Timesteps of the levels `lam`, with the ends exactly as given."""
    times = noise.t_from_lam(lam).tolist()
    times[-1] = end
    times[0] = start
    return tuple(times)
