"""Nothing that a run has stored reaches another run, whatever ended it or changed since."""

from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import _attach, cache_runtime_of, remove
from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule

from .mini_pipelines import denoiser_of, random_plan, run

Case = tuple[Any, dict[str, Any]]


def schedule(kwargs: dict[str, Any], plan: CachePlan | None, guidance: tuple[GuidanceAction, ...] | None = None) -> Any:
    return Schedule(n_steps=kwargs["num_inference_steps"], cache=plan, guidance=guidance)


def test_exception_in_the_middle_leaves_no_stale_state(pipe_case: Case) -> None:
    pipe, kwargs = pipe_case
    plan = random_plan(pipe, kwargs, 6)
    attachment = _attach(pipe, schedule(kwargs, plan))
    expected = run(pipe, kwargs)
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("planned")

    last = [m for m in denoiser_of(pipe).modules() if not list(m.children())][-1]
    hook = last.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="planned"):
        run(pipe, kwargs, prompt="something else")
    hook.remove()
    assert len(calls) == 3
    assert attachment.cache is not None
    assert attachment.cache.stored_bytes == 0
    assert torch.equal(run(pipe, kwargs), expected)
    remove(pipe)
    plain = run(pipe, kwargs)
    assert not torch.equal(plain, expected)


def test_error_outside_the_network_leaves_no_stale_state(sd_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-sd")
    _attach(sd_pipe, schedule(kwargs, random_plan(sd_pipe, kwargs, 6)))
    expected = run(sd_pipe, kwargs)

    def fail(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sd_pipe, kwargs, prompt="something else", callback_on_step_end=fail)
    runtime = cache_runtime_of(sd_pipe)
    assert runtime is not None
    assert runtime.stored_bytes == 0
    assert torch.equal(run(sd_pipe, kwargs), expected)


def test_an_interrupted_run_keeps_nothing_and_leaves_the_network_alone(sd_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-sd")
    inputs: list[Any] = []
    hook = sd_pipe.unet.register_forward_pre_hook(lambda m, a, k: inputs.append((a, k)), with_kwargs=True)
    run(sd_pipe, kwargs)
    hook.remove()
    args, named = inputs[-1]
    with torch.no_grad():
        expected = sd_pipe.unet(*args, **named)[0]
    attachment = _attach(sd_pipe, schedule(kwargs, random_plan(sd_pipe, kwargs, 6)))

    def interrupt(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 1
        return tensors

    run(sd_pipe, kwargs, callback_on_step_end=interrupt)
    assert attachment.cache is not None
    assert attachment.cache.stored_bytes == 0
    with torch.no_grad():
        assert torch.equal(sd_pipe.unet(*args, **named)[0], expected)


def test_other_size_and_batch_after_a_run_start_afresh(pipe_case: Case) -> None:
    pipe, kwargs = pipe_case
    plan = random_plan(pipe, kwargs, 8)
    changes: list[dict[str, Any]] = [{"height": 48, "width": 48}, {"prompt": ["a cat", "a dog"]}, {}]
    fresh = []
    for change in changes:
        _attach(pipe, schedule(kwargs, plan))
        fresh.append(run(pipe, kwargs, **change))
    for change, expected in zip(changes, fresh, strict=True):
        assert torch.equal(run(pipe, kwargs, **change), expected)


@pytest.mark.parametrize("change", ["batch", "size", "dtype"])
def test_new_shapes_within_a_run_clear_and_recompute(sd_pipe: Any, change: str) -> None:
    inventory = list_inventory(sd_pipe)
    stages = [i for i, s in enumerate(inventory.sites) if s.component == "stage"]
    table = np.zeros((5, len(inventory)))
    table[1:, stages] = CacheAction.REUSE
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(2, 4, 16, 16, generator=generator)
    second = torch.randn(*{"batch": (1, 4, 16, 16), "size": (2, 4, 24, 24)}.get(change, (2, 4, 16, 16)))
    text = torch.randn(2, 16, 64, generator=generator)
    t = torch.tensor(500)
    dtype = torch.float64 if change == "dtype" else torch.float32
    unet = sd_pipe.unet
    with torch.no_grad():
        unet.to(dtype)
        plain = unet(second.to(dtype), t, text[: len(second)].to(dtype)).sample
        unet.to(torch.float32)
        attachment = _attach(sd_pipe, Schedule(n_steps=4, cache=CachePlan.from_array(table)))
        scheduler, cache = sd_pipe.scheduler, attachment.cache
        assert cache is not None
        scheduler.set_timesteps(4)
        unet(first, t, text)
        scheduler.step(first, scheduler.timesteps[0], first)
        unet.to(dtype)
        result = unet(second.to(dtype), t, text[: len(second)].to(dtype)).sample
        unet.to(torch.float32)
    assert torch.equal(result, plain)
    assert cache.missed == len(stages)
    scheduler.set_timesteps(4)
    assert cache.stored_bytes == 0
