"""Guidance with one branch, on models that call the network once per branch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import _attach, attach, remove
from autotune.evaluators.attachment import Attachment
from autotune.evaluators.guidance import SeparateGuidance
from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_plan import CachePlan, canonical_plan
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.guidance_column import GuidanceAction, GuidanceRow
from autotune.spaces.schedule import Schedule

from .mini_pipelines import attributes, denoiser_of, random_plan, run
from .naive_cache import Naive
from .random_pipelines import random_args

BOTH, STORED, ALONE = GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL
LINEAR, QUADRATIC = GuidanceAction.LINEAR, GuidanceAction.QUADRATIC
Case = tuple[Any, dict[str, Any]]

MIXED: tuple[GuidanceRow, ...] = (BOTH, BOTH, LINEAR, BOTH, ALONE, QUADRATIC, (0.5, 0.25), STORED)
"""A column with every action."""

FIRST_LAYER = {
    "QwenImagePipeline": ("img_in", "true_cfg_scale"),
    "WanPipeline": ("patch_embedding", "guidance_scale"),
    "FluxPipeline": ("x_embedder", "true_cfg_scale"),
}
"""A layer that runs once per call of the network, and what the guidance scale is called."""


@pytest.fixture(params=["qwen-image", "wan", "mini-flux"])
def guided(
    request: pytest.FixtureRequest, random_pipes: dict[str, Any], flux_pipe: Any, small_args: Callable[..., Any]
) -> Iterator[Case]:
    """All models that guide in two calls, with a run of as many steps as `MIXED` has rows."""
    name = request.param
    if name == "mini-flux":
        kwargs = {**small_args(name, steps=len(MIXED)), "negative_prompt": "a dog", "true_cfg_scale": 2.5}
        yield flux_pipe, kwargs
        remove(flux_pipe)
    else:
        yield random_pipes[name], random_args(name, steps=len(MIXED))
        remove(random_pipes[name])


def with_guidance(pipe: Any, *column: GuidanceRow, cache: CachePlan | None = None) -> Attachment:
    return _attach(pipe, Schedule(n_steps=len(column), guidance=column, cache=cache))


def network_calls(pipe: Any, kwargs: dict[str, Any]) -> list[int]:
    """How often the network runs in each step."""
    calls = [0]
    layer = denoiser_of(pipe).get_submodule(FIRST_LAYER[type(pipe).__name__][0])
    hook = layer.register_forward_hook(lambda *_: calls.append(calls.pop() + 1))

    def next_step(*_: Any) -> dict[str, Any]:
        calls.append(0)
        return {}

    run(pipe, kwargs, callback_on_step_end=next_step)
    hook.remove()
    return calls[:-1]


@contextmanager
def by_hand(pipe: Any, column: tuple[GuidanceRow, ...]) -> Iterator[None]:
    """The column executed by counting calls: every difference is kept, and polynomials are solved for."""
    denoiser, kept, calls = denoiser_of(pipe), dict[int, torch.Tensor](), list[Any]()
    original = denoiser.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        row, is_second = divmod(len(calls), 2)
        action = column[row]
        if not is_second or action is BOTH:
            calls.append(original(*args, **kwargs)[0].clone())
            if is_second:
                kept[row] = calls[-2] - calls[-1]
            return (calls[-1],)
        newest = sorted(kept, reverse=True)
        if isinstance(action, tuple):
            weights = list(action)
        else:
            n = {ALONE: 0, STORED: 1, LINEAR: 2, QUADRATIC: 3}[action]
            rows = np.array(newest[:n], float)
            weights = np.linalg.solve(np.vander(rows, n).T, np.vander([row], n)[0]).tolist() if n else []
        total = torch.zeros_like(calls[-1], dtype=torch.float64)
        for weight, made in zip(weights, newest, strict=False):
            total += weight * kept[made].double()
        calls.append(calls[-1] - total.to(calls[-1].dtype))
        return (calls[-1],)

    denoiser.forward = forward
    try:
        yield
    finally:
        del denoiser.forward


def test_all_both_changes_no_bit_and_wraps_nothing(guided: Case) -> None:
    pipe, kwargs = guided
    plain = run(pipe, kwargs)
    attachment = with_guidance(pipe, *[BOTH] * len(MIXED))
    assert attachment.guidance is None
    assert torch.equal(run(pipe, kwargs), plain)


def test_both_branches_in_nearly_all_steps_change_nothing_before(guided: Case) -> None:
    pipe, kwargs = guided
    seen: list[list[torch.Tensor]] = []
    for column in (None, (*[BOTH] * (len(MIXED) - 1), STORED)):
        if column is not None:
            assert isinstance(with_guidance(pipe, *column).guidance, SeparateGuidance)
        seen.append([])
        hook = denoiser_of(pipe).register_forward_hook(lambda m, a, out: seen[-1].append(out[0].clone()))
        run(pipe, kwargs)
        hook.remove()
    plain, scheduled = seen
    assert len(plain) == len(scheduled) == 2 * len(MIXED)
    assert [torch.equal(a, b) for a, b in zip(plain, scheduled, strict=True)] == [True] * (len(plain) - 1) + [False]


def test_conditional_throughout_is_the_unguided_run(guided: Case) -> None:
    """Also with Qwen-Image's rescaling to the norm of the conditional output."""
    pipe, kwargs = guided
    unguided = run(pipe, kwargs, **{FIRST_LAYER[type(pipe).__name__][1]: 1.0})
    with_guidance(pipe, *[ALONE] * len(MIXED))
    assert torch.equal(run(pipe, kwargs), unguided)
    assert network_calls(pipe, kwargs) == [1] * len(MIXED)


@pytest.mark.parametrize("action", [STORED, ALONE])
def test_what_is_handed_out_as_it_is_equals_the_column_by_hand(guided: Case, action: GuidanceAction) -> None:
    pipe, kwargs = guided
    column = tuple(BOTH if row % 3 == 0 else action for row in range(len(MIXED)))
    plain = run(pipe, kwargs)
    with by_hand(pipe, column):
        expected = run(pipe, kwargs)
    with_guidance(pipe, *column)
    assert torch.equal(run(pipe, kwargs), expected)
    assert not torch.equal(expected, plain)


@pytest.mark.parametrize(
    "column",
    [MIXED, (BOTH, BOTH, *[LINEAR] * 2, BOTH, *[LINEAR] * 3), (BOTH, BOTH, STORED, BOTH, *[QUADRATIC] * 4)],
    ids=["mixed", "linear", "quadratic"],
)
def test_a_run_equals_the_column_by_hand_and_so_does_the_next(guided: Case, column: tuple[GuidanceRow, ...]) -> None:
    pipe, kwargs = guided
    plain, before = run(pipe, kwargs), attributes(pipe)
    with by_hand(pipe, column):
        expected = run(pipe, kwargs)
    attachment = with_guidance(pipe, *column)
    first = run(pipe, kwargs)
    torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-4)
    assert float((first - expected).norm()) < 1e-3 * float((first - plain).norm())
    assert torch.equal(run(pipe, kwargs), first)
    guidance = attachment.guidance
    assert isinstance(guidance, SeparateGuidance)
    assert (guidance.missed, guidance._differences, guidance._conditional) == (0, {}, None)
    remove(pipe)
    assert attributes(pipe) == before
    assert torch.equal(run(pipe, kwargs), plain)


def test_the_network_runs_as_often_as_the_column_says(guided: Case) -> None:
    pipe, kwargs = guided
    with_guidance(pipe, *MIXED)
    assert network_calls(pipe, kwargs) == [2 if row is BOTH else 1 for row in MIXED]


def test_run_without_guidance_is_refused(guided: Case) -> None:
    pipe, kwargs = guided
    with_guidance(pipe, *MIXED)
    first = run(pipe, kwargs)
    with pytest.raises(ScheduleMismatchError, match=r"this run is not guided; raise guidance_scale \(true_cfg_scale"):
        run(pipe, kwargs, **{FIRST_LAYER[type(pipe).__name__][1]: 1.0})
    assert torch.equal(run(pipe, kwargs), first)


def test_a_run_that_fails_in_a_branch_leaves_nothing_behind(guided: Case) -> None:
    pipe, kwargs = guided
    guidance = with_guidance(pipe, *MIXED).guidance
    assert isinstance(guidance, SeparateGuidance)
    first = run(pipe, kwargs)
    held: list[Any] = []

    def fail(*_: Any) -> None:
        held.append(guidance._conditional)
        if len(held) == 4:  # the second branch of the second step
            raise KeyboardInterrupt

    layer = denoiser_of(pipe).get_submodule(FIRST_LAYER[type(pipe).__name__][0])
    hook = layer.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        run(pipe, kwargs)
    hook.remove()
    assert (guidance._differences, guidance._conditional) == ({}, None)
    assert torch.equal(run(pipe, kwargs), first)


def test_a_run_that_is_stopped_between_steps_leaves_nothing_behind(guided: Case) -> None:
    pipe, kwargs = guided
    plain = run(pipe, kwargs)
    guidance = with_guidance(pipe, *MIXED).guidance
    assert isinstance(guidance, SeparateGuidance)
    first = run(pipe, kwargs)

    def stop(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        if step == 1:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run(pipe, kwargs, callback_on_step_end=stop)
    assert guidance._differences == {}
    assert torch.equal(run(pipe, kwargs), first)
    remove(pipe)
    assert torch.equal(run(pipe, kwargs), plain)


@pytest.mark.parametrize("forecasts", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_cached_values_of_each_branch_have_their_own_age(guided: Case, forecasts: bool, seed: int) -> None:
    pipe, kwargs = guided
    column = (BOTH, STORED, BOTH, ALONE, BOTH, BOTH, STORED, BOTH)
    plan = random_plan(pipe, kwargs, seed, forecasts=forecasts)
    # What no call reads of the conditional branch is computed in neither: the plan means its canonical form.
    canonical = canonical_plan(plan, list_inventory(pipe))
    assert canonical is not None
    with Naive(pipe, canonical, calls_per_row=2):
        with_guidance(pipe, *column)
        expected = run(pipe, kwargs)
        remove(pipe)
    attachment = with_guidance(pipe, *column, cache=plan)
    result = run(pipe, kwargs)
    assert attachment.cache is not None
    assert (attachment.cache.missed, attachment.cache.stored_bytes) == (0, 0)
    if forecasts:
        assert float((result - expected).norm() / expected.norm()) < 1e-4
    else:
        assert torch.equal(result, expected)
    with_guidance(pipe, *column, cache=canonical)
    assert torch.equal(run(pipe, kwargs), result)


def test_a_difference_that_a_late_start_never_stored_makes_the_step_run_both(guided: Case) -> None:
    guidance = SeparateGuidance((BOTH, STORED, STORED, ALONE))

    def network(args: Any, kwargs: Any, half: bool) -> Any:
        assert not half
        return args

    def step(row: int, conditional: float, unconditional: float) -> list[float]:
        values = (torch.tensor([[conditional]]), torch.tensor([[unconditional]]))
        return [
            float(guidance.run(network, (value,), {}, row=row, call=call, batch=1)[0])
            for call, value in enumerate(values)
        ]

    assert step(1, 3.0, 1.0) == [3.0, 1.0]
    assert guidance.missed == 1
    assert step(2, 10.0, torch.nan) == [10.0, 8.0]
    assert step(3, 20.0, torch.nan) == [20.0, 20.0]
    assert guidance.missed == 1


def test_a_batch_of_another_size_and_text_of_another_length_are_other_runs(random_pipes: dict[str, Any]) -> None:
    pipe, kwargs = random_pipes["wan"], random_args("wan", steps=len(MIXED))
    one = {name: x[:1] if name.endswith("prompt_embeds") else x for name, x in kwargs.items()}
    short = {name: x[:, :2] if name == "negative_prompt_embeds" else x for name, x in kwargs.items()}
    with by_hand(pipe, MIXED):
        expected = run(pipe, one)
    with by_hand(pipe, MIXED):
        expected_short = run(pipe, short)
    attach(pipe, Schedule(n_steps=len(MIXED), guidance=MIXED))
    first = run(pipe, kwargs)
    torch.testing.assert_close(run(pipe, one), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(run(pipe, short), expected_short, rtol=1e-3, atol=1e-4)
    assert torch.equal(run(pipe, kwargs), first)
    remove(pipe)
