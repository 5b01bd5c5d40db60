"""Fits where memory is short, and through half precision: on the quadratics of `test_gradient_fit`."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autotune.evaluators.gradient_fit import fit_parameters
from autotune.evaluators.gradient_run import ProgramTensors

from .test_gradient_fit import HELD_OUT, PARAMETERS, SETTINGS, TARGET, TRAIN, N, build, noisy


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_batch_that_memory_is_short_of_is_halved(most: int) -> None:
    asked: list[int] = []

    def short(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        if torch.is_grad_enabled():
            asked.append(len(prompts))
            if len(prompts) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return noisy(tensors, prompts)

    whole = fit_parameters(PARAMETERS, noisy, TRAIN, HELD_OUT, SETTINGS)
    parts = fit_parameters(PARAMETERS, short, TRAIN, HELD_OUT, SETTINGS)
    np.testing.assert_allclose(whole.theta, parts.theta, atol=1e-3)
    assert [n for n in asked if n > most] == {1: [6, 3], 2: [6, 3], 5: [6]}[most]


def test_memory_that_is_short_of_a_single_sample_is_an_error() -> None:
    def short(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return noisy(tensors, prompts)

    with pytest.raises(torch.OutOfMemoryError):
        fit_parameters(PARAMETERS, short, TRAIN, HELD_OUT, SETTINGS)


def test_held_out_prompts_are_scored_in_batches() -> None:
    def small(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        assert len(prompts) <= 2
        return noisy(tensors, prompts)

    parts = fit_parameters(PARAMETERS, small, TRAIN, HELD_OUT, replace(SETTINGS, batch=2))
    assert parts.before == pytest.approx(fit_parameters(PARAMETERS, noisy, TRAIN, HELD_OUT, SETTINGS).before, rel=1e-6)


def test_gradients_that_float16_alone_would_lose_reach_the_parameters() -> None:
    """The sample of half a million elements goes through float16, and so does its gradient on the way back."""
    size = 1 << 19

    def half(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        goal = torch.tensor(build(TARGET).output_coefs).float().diagonal()
        sample: torch.Tensor = tensors.output_coefs.diagonal().repeat(size // N).expand(len(prompts), -1).half()
        return torch.div((sample - goal.half().repeat(size // N)).float(), size**0.5)

    fit = fit_parameters(PARAMETERS, half, TRAIN[:2], HELD_OUT[:1], SETTINGS)
    np.testing.assert_allclose(fit.theta, TARGET, atol=2e-3)


def test_a_scale_that_overflows_is_lowered() -> None:
    """A gradient that float16 has no number for costs one gradient, and no more."""
    scales: list[float] = []

    class Overflowing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            scales.append(float(grads[0].abs().max()))
            narrow: torch.Tensor = (grads[0] * 65504.0).half().float() / 65504.0
            return narrow

    def narrow(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        result: torch.Tensor = Overflowing.apply(noisy(tensors, prompts))  # type: ignore[no-untyped-call]
        return result

    fit = fit_parameters(PARAMETERS, narrow, TRAIN, HELD_OUT, SETTINGS)
    assert scales[0] > 1.0 > max(scales[1:])
    assert fit.after < 0.5 * fit.before
