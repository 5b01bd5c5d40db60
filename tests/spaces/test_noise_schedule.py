"""Noise levels against diffusers' tables, inverses, and the JSON form."""

import math
from typing import Any

import diffusers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import FLOW_START, Flow, VariancePreserving, noise_schedule_from_json

D: Any = diffusers  # its constructors are untyped

LINEAR = VariancePreserving(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
SCALED = VariancePreserving(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


@pytest.mark.parametrize("noise", [LINEAR, SCALED], ids=["linear", "scaled_linear"])
def test_levels_are_those_of_diffusers(noise: VariancePreserving) -> None:
    theirs = D.DDPMScheduler(
        beta_schedule=noise.beta_schedule, beta_start=noise.beta_start, beta_end=noise.beta_end
    ).alphas_cumprod.double()
    t = np.arange(1000)
    np.testing.assert_allclose(noise.alpha(t) ** 2, theirs, rtol=2e-5)
    np.testing.assert_allclose(noise.sigma(t) ** 2, 1 - theirs, rtol=1e-3)  # theirs is 1 - float32
    np.testing.assert_allclose(noise.alpha(t) ** 2 + noise.sigma(t) ** 2, 1.0, rtol=1e-14)


@pytest.mark.parametrize("noise", [LINEAR, SCALED, Flow(mu=0.7)])
@given(fraction=st.floats(0.001, 0.999))
def test_lambda_is_the_log_ratio_falls_with_t_and_has_an_inverse(
    noise: VariancePreserving | Flow, fraction: float
) -> None:
    t = fraction * noise.t_max
    assert float(noise.lam(t)) == pytest.approx(math.log(float(noise.alpha(t) / noise.sigma(t))), abs=1e-9)
    assert float(noise.t_from_lam(noise.lam(t))) == pytest.approx(t, rel=1e-9)
    assert float(noise.lam(t)) > float(noise.lam(t * 1.0005))


def test_between_integers_lambda_is_linear() -> None:
    middle = float(LINEAR.lam(500.25))
    assert middle == pytest.approx(0.75 * float(LINEAR.lam(500)) + 0.25 * float(LINEAR.lam(501)), rel=1e-12)


def test_flow_levels_do_not_depend_on_the_shift_and_pure_noise_is_finite() -> None:
    t = np.array([1000.0, 400.0])
    np.testing.assert_array_equal(Flow(mu=1.15, dynamic=True).sigma(t), [1.0, 0.4])
    np.testing.assert_allclose(Flow().alpha(t), [0.0, 0.6])
    assert float(Flow().lam(1000.0)) == pytest.approx(math.log((1 - FLOW_START) / FLOW_START))


@pytest.mark.parametrize("noise", [LINEAR, SCALED, Flow(mu=0.63, dynamic=True), Flow()])
def test_json_round_trip(noise: VariancePreserving | Flow) -> None:
    assert noise_schedule_from_json(noise.to_json()) == noise


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"kind": "edm"}, "kind must be one of"),
        ({"kind": "flow", "shift": 3.0}, "wrong fields"),
        ({"kind": "flow", "mu": math.nan}, "finite"),
        ({**LINEAR.to_json(), "beta_end": 2.0}, "beta_start <= beta_end < 1"),
    ],
)
def test_bad_json_is_refused(data: dict[str, object], words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        noise_schedule_from_json(data)
