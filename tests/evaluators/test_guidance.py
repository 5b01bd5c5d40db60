"""Guidance with one branch, on the reference models that guide."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import _attach, remove
from autotune.evaluators.branch_store import second_half
from autotune.evaluators.guidance import half_of, halves_are_equal
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule

from .mini_pipelines import denoiser_of, run
from .policy.small_policy import make_policy
from .random_pipelines import random_args

BOTH, STORED, ALONE = GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL


@pytest.fixture(params=["mini-pixart", "mini-sd", "sd3", "sdxl"])
def guided(
    request: pytest.FixtureRequest, pixart_pipe: Any, sd_pipe: Any, random_pipes: Any, small_args: Any
) -> Iterator[Any]:
    """All models that guide in one batch, the reference models with DPM-Solver++: a step is one network call."""
    name = request.param
    if name in random_pipes:
        kwargs = {**random_args(name), "prompt": "a red circle"}
        yield random_pipes[name], kwargs
        remove(random_pipes[name])
        return
    pipe = pixart_pipe if name == "mini-pixart" else sd_pipe
    scheduler = pipe.scheduler
    pipe.scheduler = type(pixart_pipe.scheduler).from_config(scheduler.config)
    yield pipe, small_args(name)
    remove(pipe)
    pipe.scheduler = scheduler


def network_batches(pipe: Any, kwargs: dict[str, Any]) -> list[int]:
    """Batch size of every network call, seen by the denoiser's first layer."""
    batches: list[int] = []
    first = getattr(denoiser_of(pipe), "pos_embed", None) or denoiser_of(pipe).conv_in
    hook = first.register_forward_pre_hook(lambda m, args: batches.append(args[0].shape[0]))
    run(pipe, kwargs)
    hook.remove()
    return batches


def outputs(pipe: Any, kwargs: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(unconditional, conditional) prediction of every row, as the pipeline receives them."""
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = denoiser_of(pipe).register_forward_hook(lambda m, a, out: pairs.append(out[0].chunk(2)))
    run(pipe, kwargs)
    hook.remove()
    return pairs


def test_all_both_changes_no_bit_and_wraps_nothing(guided: Any) -> None:
    pipe, kwargs = guided
    plain = run(pipe, kwargs)
    attachment = _attach(pipe, Schedule(n_steps=4, guidance=(BOTH,) * 4))
    assert attachment.guidance is None
    assert torch.equal(run(pipe, kwargs), plain)


def test_conditional_throughout_is_the_unguided_run(guided: Any) -> None:
    pipe, kwargs = guided
    unguided = run(pipe, kwargs, guidance_scale=1.0)
    _attach(pipe, Schedule(n_steps=4, guidance=(ALONE,) * 4))
    assert torch.equal(run(pipe, kwargs), unguided)


def test_dropped_branch_is_not_computed(guided: Any) -> None:
    pipe, kwargs = guided
    _attach(pipe, Schedule(n_steps=4, guidance=(BOTH, STORED, ALONE, BOTH)))
    assert network_batches(pipe, {**kwargs, "prompt": ["a cat", "a dog"]}) == [4, 2, 2, 4]


def test_stored_difference_is_that_of_the_last_call_with_both(guided: Any) -> None:
    pipe, kwargs = guided
    attachment = _attach(pipe, Schedule(n_steps=4, guidance=(BOTH, STORED, ALONE, STORED)))
    (u0, c0), (u1, c1), (u2, c2), (u3, c3) = outputs(pipe, kwargs)
    assert torch.equal(u1, c1 - (c0 - u0))
    assert torch.equal(u2, c2)
    assert torch.equal(u3, c3 - (c0 - u0))
    assert attachment.guidance is not None
    assert attachment.guidance.missed == 0


def test_a_difference_is_forecast_from_those_of_the_last_calls_with_both(guided: Any) -> None:
    pipe, kwargs = guided
    column = (BOTH, BOTH, GuidanceAction.LINEAR, BOTH, GuidanceAction.QUADRATIC, (0.5, 0.75))
    _attach(pipe, Schedule(n_steps=6, guidance=column))
    pairs = outputs(pipe, {**kwargs, "num_inference_steps": 6})
    d = [(c - u).double() for u, c in pairs]
    torch.testing.assert_close(d[2], 2 * d[1] - d[0], rtol=1e-4, atol=1e-5)
    parabola = np.linalg.solve(np.vander([3.0, 1.0, 0.0], 3).T, [4.0**2, 4.0, 1.0])
    expected = sum(float(w) * d[j] for w, j in zip(parabola, (3, 1, 0), strict=True))
    torch.testing.assert_close(d[4], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(d[5], 0.5 * d[3] + 0.75 * d[1], rtol=1e-4, atol=1e-5)


def test_conditional_output_of_a_dropped_row_is_that_of_the_full_call(guided: Any) -> None:
    pipe, kwargs = guided
    full = outputs(pipe, kwargs)
    _attach(pipe, Schedule(n_steps=4, guidance=(BOTH, STORED, BOTH, BOTH)))
    torch.testing.assert_close(outputs(pipe, kwargs)[1][1], full[1][1], rtol=0, atol=2e-5)


def test_two_runs_are_identical_and_removal_is_exact(guided: Any) -> None:
    pipe, kwargs = guided
    plain = run(pipe, kwargs)
    _attach(pipe, Schedule(n_steps=4, guidance=(BOTH, STORED, STORED, ALONE)))
    first = run(pipe, kwargs)
    assert torch.equal(run(pipe, kwargs), first)
    assert not torch.equal(first, plain)
    remove(pipe)
    assert torch.equal(run(pipe, kwargs), plain)


def test_run_without_guidance_is_refused(guided: Any) -> None:
    pipe, kwargs = guided
    _attach(pipe, Schedule(n_steps=4, guidance=(BOTH, STORED, BOTH, BOTH)))
    with pytest.raises(ScheduleMismatchError, match="this run is not guided; raise guidance_scale"):
        run(pipe, kwargs, guidance_scale=1.0, prompt=["a cat", "a dog"])


def test_unguided_batch_of_equal_latents_is_refused(pixart_pipe: Any, small_args: Any) -> None:
    kwargs = {**small_args("mini-pixart"), "guidance_scale": 1.0, "prompt": ["a cat", "a dog"]}
    latents = torch.randn(1, 4, 16, 16).repeat(2, 1, 1, 1)
    _attach(pixart_pipe, Schedule(n_steps=4, guidance=(ALONE, ALONE, BOTH, BOTH)))
    with pytest.raises(ScheduleMismatchError, match="this run is not guided"):
        pixart_pipe(**kwargs, latents=latents)
    remove(pixart_pipe)


def test_model_without_guidance_is_refused() -> None:
    pipe = make_policy()
    with pytest.raises(ScheduleMismatchError, match="PolicyPipeline has none"):
        _attach(pipe, Schedule(n_steps=2, guidance=(BOTH, STORED)))
    assert "forward" not in vars(pipe.transformer)


def test_difference_that_a_late_start_never_stored_makes_the_call_run_both(guided: Any) -> None:
    pipe, _ = guided
    attachment = _attach(pipe, Schedule(n_steps=4, guidance=(BOTH, STORED, STORED, ALONE)))
    scheduler, guidance = pipe.scheduler, attachment.guidance
    assert guidance is not None
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(1)

    def network(args: Any, kwargs: Any, half: bool) -> tuple[torch.Tensor]:
        assert args[0].shape[0] == (1 if half else 2)
        return (10.0 * args[0] if half else args[0],)

    both = guidance.run(network, (torch.tensor([[1.0], [3.0]]),), {}, row=1, call=0, batch=2)
    assert both[0].tolist() == [[1.0], [3.0]]
    assert guidance.missed == 1
    one = guidance.run(network, (torch.tensor([[1.0], [1.0]]),), {}, row=2, call=0, batch=2)
    assert one[0].tolist() == [[8.0], [10.0]]
    assert guidance.missed == 1


def test_conditional_half_follows_containers_and_spares_other_lengths() -> None:
    batch, other = torch.arange(4), torch.arange(3)
    cut = half_of(({"a": [batch, other], "b": None}, torch.tensor(1.0), "text"), 4, second_half)
    assert cut[0]["a"][0].tolist() == [2, 3]
    assert cut[0]["a"][1] is other
    assert cut[1:] == (torch.tensor(1.0), "text")


def test_guided_batches_hold_every_latent_twice() -> None:
    x = torch.randn(2, 3)
    assert halves_are_equal(torch.cat([x, x]))
    assert not halves_are_equal(torch.cat([x, x + 1]))
    assert not halves_are_equal(torch.zeros(3, 3))
