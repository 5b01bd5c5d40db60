"""Cache plans on SD3, SDXL, Qwen-Image and Wan: the published classes, tiny and with random weights."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.apply import _attach, attach, remove
from autotune.evaluators.inventory import default_prompt_tokens, list_inventory
from autotune.evaluators.noise import noise_schedule_of
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, canonical_plan
from autotune.spaces.errors import UnsupportedModelError
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver

from .mini_pipelines import attributes, denoiser_of, n_calls, random_plan, run
from .naive_cache import Naive
from .random_pipelines import random_args

D: Any = diffusers  # its constructors are untyped
Case = tuple[Any, dict[str, Any]]
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def calls_per_row(pipe: Any) -> int:
    return 2 if find_adapter(pipe).guidance == "calls" else 1


def schedule(kwargs: dict[str, Any], plan: CachePlan) -> Schedule:
    return Schedule(n_steps=kwargs["num_inference_steps"], cache=plan)


def recorded(pipe: Any, kwargs: dict[str, Any]) -> tuple[list[Inputs], list[torch.Tensor]]:
    """Inputs and output of every network call of a run."""
    inputs: list[Inputs] = []
    outputs: list[torch.Tensor] = []
    before = denoiser_of(pipe).register_forward_pre_hook(lambda m, a, k: inputs.append((a, k)), with_kwargs=True)
    after = denoiser_of(pipe).register_forward_hook(lambda m, a, out: outputs.append(out[0]))
    run(pipe, kwargs)
    before.remove()
    after.remove()
    return inputs, outputs


def replayed(pipe: Any, kwargs: dict[str, Any], inputs: list[Inputs]) -> list[torch.Tensor]:
    """Output of every network call of a run whose calls get the given inputs in place of the pipeline's."""
    rest = iter(inputs)
    hook = denoiser_of(pipe).register_forward_pre_hook(lambda m, a, k: next(rest), with_kwargs=True)
    outputs = recorded(pipe, kwargs)[1]
    hook.remove()
    return outputs


def test_sites_stand_in_execution_order(random_case: Case) -> None:
    pipe, kwargs = random_case
    ran: list[str] = []
    names = [site.name for site in list_inventory(pipe).sites if site.name not in ("final", "stack")]
    hooks = [
        denoiser_of(pipe).get_submodule(name).register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name in names
    ]
    run(pipe, kwargs)
    for hook in hooks:
        hook.remove()
    assert ran == names * (4 * calls_per_row(pipe))


def test_inputs_have_the_shapes_that_the_pipeline_passes(random_case: Case) -> None:
    pipe, kwargs = random_case
    adapter, height = find_adapter(pipe), 2 * kwargs["height"]
    video = {"num_frames": 81} if "num_frames" in kwargs else {}  # the pipeline's default
    args, passed = recorded(pipe, {**kwargs, **video, "height": height, "num_inference_steps": 2})[0][0]
    shape = adapter.latent_shape(pipe, height, kwargs["width"])
    assert shape[1:] == (args[0] if args else passed["hidden_states"]).shape[1:]
    n_tokens = passed["encoder_hidden_states"].shape[1]
    if hasattr(pipe, "tokenizer_2"):
        assert n_tokens == default_prompt_tokens(pipe)
    made = adapter.make_inputs(pipe, shape, n_tokens)
    flat = {**passed, **(passed.get("added_cond_kwargs") or {})}
    for name, value in {**made, **(made.get("added_cond_kwargs") or {})}.items():
        if isinstance(value, torch.Tensor) and not (args and name in ("sample", "timestep")):
            assert value.shape[1:] == flat[name].shape[1:], name
    with torch.no_grad():
        assert denoiser_of(pipe)(**made, return_dict=False)[0].isfinite().all()


def test_all_recompute_is_bit_identical_and_so_is_the_pipeline_after_removal(random_case: Case) -> None:
    pipe, kwargs = random_case
    inventory = list_inventory(pipe)
    plain, before = run(pipe, kwargs), attributes(pipe)
    plan = CachePlan.from_array(np.zeros((n_calls(pipe, kwargs), len(inventory))))
    attachment = _attach(pipe, schedule(kwargs, plan), every_site=True)
    named = {site.name for site in inventory.sites} - {"final", "stack"}
    assert {name for name, m in denoiser_of(pipe).named_modules() if "forward" in vars(m)} == named | {""}
    assert torch.equal(run(pipe, kwargs), plain)
    assert attachment.cache is not None
    assert (attachment.cache.missed, attachment.cache.peak_bytes) == (0, 0)
    remove(pipe)
    assert torch.equal(run(pipe, kwargs), plain)
    assert attributes(pipe) == before


@pytest.mark.parametrize("seed", [0, 1])
def test_run_equals_naive_execution_twice(random_case: Case, seed: int) -> None:
    pipe, kwargs = random_case
    kwargs = {**kwargs, "num_inference_steps": 5}
    plan, plain = random_plan(pipe, kwargs, seed), run(pipe, kwargs)
    with Naive(pipe, plan, calls_per_row=calls_per_row(pipe)):
        expected = run(pipe, kwargs)
    attachment = _attach(pipe, schedule(kwargs, plan))
    first = run(pipe, kwargs)
    assert attachment.cache is not None
    assert (attachment.cache.missed, attachment.cache.stored_bytes) == (0, 0)
    assert torch.equal(first, expected)
    assert torch.equal(run(pipe, kwargs), first)
    assert not torch.equal(first, plain)
    attach(pipe, schedule(kwargs, canonical_plan(plan, list_inventory(pipe)) or plan))
    assert torch.equal(run(pipe, kwargs), first)
    remove(pipe)
    assert torch.equal(run(pipe, kwargs), plain)


@pytest.mark.parametrize("seed", [2, 3])
def test_canonical_plan_with_forecasts_changes_no_bit(random_case: Case, seed: int) -> None:
    pipe, kwargs = random_case
    kwargs = {**kwargs, "num_inference_steps": 6}
    plan = random_plan(pipe, kwargs, seed, forecasts=True)
    canonical = canonical_plan(plan, list_inventory(pipe))
    assert canonical is not None
    assert canonical != plan
    results = []
    for variant in (plan, canonical):
        attach(pipe, schedule(kwargs, variant))
        results.append(run(pipe, kwargs))
    assert torch.equal(*results)


def test_reused_row_changes_its_own_outputs_only(random_case: Case) -> None:
    pipe, kwargs = random_case
    inputs, plain = recorded(pipe, kwargs)
    table = np.zeros((4, len(list_inventory(pipe))))
    table[2] = CacheAction.REUSE
    attach(pipe, schedule(kwargs, CachePlan.from_array(table)))
    outputs = replayed(pipe, kwargs, inputs)
    per_row = calls_per_row(pipe)
    assert len(outputs) == len(plain) == 4 * per_row
    changed = [call for call, (a, b) in enumerate(zip(outputs, plain, strict=True)) if not torch.equal(a, b)]
    assert changed == list(range(2 * per_row, 3 * per_row))


def test_rows_are_the_schedulers_steps(random_case: Case) -> None:
    check_rows(*random_case)


def test_rows_are_the_steps_of_another_scheduler_too(random_pipes: dict[str, Any]) -> None:
    pipe = random_pipes["wan"]
    unipc, pipe.scheduler = pipe.scheduler, D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    check_rows(pipe, random_args("wan"))
    remove(pipe)
    pipe.scheduler = unipc


def check_rows(pipe: Any, kwargs: dict[str, Any]) -> None:
    """A guided run makes one or two calls per row, an unguided one a single call."""
    attachment = _attach(pipe, schedule(kwargs, random_plan(pipe, kwargs, 3)))
    rows: list[int | None] = []
    hook = denoiser_of(pipe).register_forward_pre_hook(lambda *_: rows.append(attachment._clock._steps_done))
    run(pipe, kwargs)
    assert rows == [row for row in range(4) for _ in range(calls_per_row(pipe))]
    rows.clear()
    scale = "true_cfg_scale" if type(pipe).__name__ == "QwenImagePipeline" else "guidance_scale"
    run(pipe, {**kwargs, scale: 1.0})
    hook.remove()
    assert rows == [0, 1, 2, 3]


def poison(inputs: list[Inputs], call: int, samples: slice) -> list[Inputs]:
    """The inputs with the prompt embeddings of one call's samples made NaN."""
    poisoned = list(inputs)
    args, kwargs = inputs[call]
    embedding = kwargs["encoder_hidden_states"].clone()
    embedding[samples] = torch.nan
    poisoned[call] = (args, {**kwargs, "encoder_hidden_states": embedding})
    return poisoned


def test_poison_in_the_unconditional_branch_never_reaches_the_conditional(random_case: Case) -> None:
    pipe, kwargs = random_case
    kwargs = {**kwargs, "num_inference_steps": 6}
    inputs = recorded(pipe, kwargs)[0]
    table = np.random.default_rng(11).random((6, len(list_inventory(pipe)))) < 0.5
    table[2] = False  # the poisoned row computes all
    attach(pipe, schedule(kwargs, CachePlan.from_array(table)))
    clean = replayed(pipe, kwargs, inputs)
    sequential = calls_per_row(pipe) == 2
    if sequential:
        dirty = replayed(pipe, kwargs, poison(inputs, 5, slice(None)))
    else:
        dirty = replayed(pipe, kwargs, poison(inputs, 2, slice(2)))
        clean, dirty = ([half for x in outputs for half in x.chunk(2)[::-1]] for outputs in (clean, dirty))
    assert len(dirty) == len(clean) == 12  # conditional, unconditional, conditional, ..
    for call in range(0, 12, 2):
        assert torch.equal(clean[call], dirty[call])
    assert dirty[5].isnan().all()
    assert any(x.isnan().any() for x in dirty[7::2])


def test_text_of_another_length_is_another_run(random_pipes: dict[str, Any]) -> None:
    pipe, kwargs = random_pipes["qwen-image"], random_args("qwen-image")
    short = {name: x[:, :2] if name.startswith("prompt_embeds") else x for name, x in kwargs.items()}
    plan = random_plan(pipe, kwargs, 6)
    expected = []
    for args in (kwargs, short):
        with Naive(pipe, plan, calls_per_row=2):
            expected.append(run(pipe, args))
    attachment = _attach(pipe, schedule(kwargs, plan))
    for args, latents in zip((kwargs, short, kwargs), (*expected, expected[0]), strict=True):
        assert torch.equal(run(pipe, args), latents)
    assert attachment.cache is not None
    assert attachment.cache.missed == 0
    remove(pipe)


def test_third_call_of_skip_layer_guidance_has_its_own_values(random_pipes: dict[str, Any]) -> None:
    """SD3 then calls the network a third time in some rows, without some blocks."""
    pipe = random_pipes["sd3"]
    kwargs = {**random_args("sd3", steps=6), "skip_guidance_layers": [1], "skip_layer_guidance_stop": 0.6}
    inputs, plain = recorded(pipe, kwargs)
    batches = [k["hidden_states"].shape[0] for _, k in inputs]
    assert batches == [4, 4, 2, 4, 2, 4, 2, 4, 4]
    table = np.zeros((6, len(list_inventory(pipe))))
    table[2] = CacheAction.REUSE
    attachment = _attach(pipe, schedule(kwargs, CachePlan.from_array(table)))
    outputs = replayed(pipe, kwargs, inputs)
    changed = [call for call, (a, b) in enumerate(zip(outputs, plain, strict=True)) if not torch.equal(a, b)]
    assert changed == [3, 4]
    assert attachment.cache is not None
    assert attachment.cache.missed == 0
    remove(pipe)


def test_two_transformers_take_solver_schedules_only(random_pipes: dict[str, Any]) -> None:
    wan, kwargs = random_pipes["wan"], random_args("wan")
    two = D.WanPipeline(
        transformer=wan.transformer, transformer_2=wan.transformer, boundary_ratio=0.875, scheduler=wan.scheduler,
        vae=None, text_encoder=None, tokenizer=None,
    )  # fmt: skip
    two.set_progress_bar_config(disable=True)
    with pytest.raises(UnsupportedModelError, match=r"from transformer to transformer_2 .*boundary_ratio 0\.875"):
        attach(two, schedule(kwargs, random_plan(wan, kwargs, 0)))
    noise = noise_schedule_of(wan.scheduler)
    solver = Schedule(n_steps=4, time=(1000.0, 900.0, 700.0, 300.0), solver=make_solver("dpmpp-2m", 4, noise))
    attach(wan, solver)
    expected = run(wan, kwargs)
    remove(wan)
    attach(two, solver)
    assert torch.equal(run(two, kwargs), expected)
    remove(two)
