"""A sampling problem with an exact network, shared by the tests of solvers."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.spaces.noise_schedule import Flow, VariancePreserving
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import SolverProgram

Array = NDArray[np.float64]
Noise = VariancePreserving | Flow
Network = Callable[[Array, float], Array]

MEANS, SPREADS, WEIGHTS = np.array([-1.0, 0.7]), np.array([0.35, 0.5]), np.array([0.4, 0.6])


class Toy:
    """Denoising of a two-component Gaussian mixture in one dimension, and a runner of programs."""

    x0 = np.random.default_rng(0).standard_normal(64)

    def denoise(self, x: Array, alpha: float, sigma: float) -> Array:
        """E[x_0 | x] of a two-component Gaussian mixture."""
        variance = (alpha * SPREADS) ** 2 + sigma**2
        gap = x[..., None] - alpha * MEANS
        logits = np.log(WEIGHTS) - 0.5 * np.log(variance) - 0.5 * gap**2 / variance
        posterior = np.exp(logits - logits.max(axis=-1, keepdims=True))
        posterior /= posterior.sum(axis=-1, keepdims=True)
        return np.asarray((posterior * (MEANS + alpha * SPREADS**2 / variance * gap)).sum(axis=-1))

    def network(self, noise: Noise, prediction: Prediction) -> Network:
        """An exact network for the mixture, as a function of state and timestep."""

        def call(x: Array, t: float) -> Array:
            alpha, sigma = float(noise.alpha(t)), float(noise.sigma(t))
            data = self.denoise(x, alpha, sigma)
            eps = (x - alpha * data) / sigma
            if prediction == "velocity":
                return eps - data if isinstance(noise, Flow) else alpha * eps - sigma * data
            return eps if prediction == "noise" else data

        return call

    def run(self, program: SolverProgram, net: Network, x: Array, exact: Sequence[Array] = ()) -> list[Array]:
        """All states of a run; the first ones are replaced by `exact`."""
        states, outputs = [x], []
        for i in range(program.n_steps):
            states[i] = exact[i] if i < len(exact) else states[i]
            outputs.append(net(states[i], float(program.timesteps[i])))
            row = zip(program.state_coefs[i], program.output_coefs[i], states, outputs, strict=False)
            states.append(np.asarray(sum(a * s + b * o for a, b, s, o in row)))
        return states

    def largest_gap(self, a: Sequence[Array], b: Sequence[Array]) -> float:
        assert np.all(np.isfinite(np.array([*a, *b])))
        return max(float(np.sqrt(((p - q) ** 2).mean() / (q**2).mean())) for p, q in zip(a, b, strict=True))


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy()
