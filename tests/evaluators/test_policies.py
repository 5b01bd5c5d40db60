"""Cache policies on the reference models: exactness at threshold 0, counts, resets, removal, diffusers' own caches."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CacheMixin, DiffusionPipeline

import autotune
from autotune.evaluators.adapters import ADAPTERS
from autotune.evaluators.apply import _attach, remove
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.policy.transformer import PolicyTransformer
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.cache_policy import CACHE_MIXIN, CachePolicy, PolicyKind, supports
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.inventory import STACK
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import ScheduleFile, save_schedule_file
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

from .mini_pipelines import attributes, denoiser_of, n_calls, run
from .random_pipelines import SEQUENTIAL, random_args

Case = tuple[Any, dict[str, Any]]
STEPS = 10
OWN = [kind for kind in PolicyKind if not kind.by_diffusers]
LARGE = 1.9
FIDELITY = Fidelity(name="calibration", prompts=("a red circle", "a blue square"), seeds=(0, 1))


def policy(kind: PolicyKind, threshold: float, calls: int) -> CachePolicy:
    extra: dict[str, Any] = {}
    if kind in (PolicyKind.MAGCACHE, PolicyKind.DIFFUSERS_MAGCACHE):
        extra = {"ratios": (1.0, *[0.97] * (calls - 1)), "max_skips": 2}
    if kind in (PolicyKind.SADA, PolicyKind.SADA_MULTISTEP):
        extra = {"order": 2}
    if kind is PolicyKind.SADA_MULTISTEP:
        extra |= {"settled": 5, "max_skips": 2}
    if kind is PolicyKind.TEACACHE:
        extra = {"polynomial": (1.0, 0.0)}
    if kind in (PolicyKind.DIFFUSERS_TAYLORSEER, PolicyKind.DIFFUSERS_PAB):
        return CachePolicy(kind=kind, interval=3)
    if kind is PolicyKind.DIFFUSERS_FASTERCACHE:
        return CachePolicy(kind=kind, interval=2, window=(-1.0, 901.0))
    return CachePolicy(kind=kind, threshold=threshold, **extra)


def with_policy(pipe: Any, kwargs: dict[str, Any], kind: PolicyKind, threshold: float) -> Schedule:
    calls = n_calls(pipe, kwargs)
    return Schedule(n_steps=kwargs["num_inference_steps"], policy=policy(kind, threshold, calls))


def supported(pipe: Any, kinds: list[PolicyKind]) -> list[PolicyKind]:
    inventory = list_inventory(pipe)
    return [kind for kind in kinds if supports(kind, inventory)]


def count_last_block(pipe: Any, ran: list[int]) -> Any:
    """A hook on a module deep inside the last block or stage, which runs in computed calls only."""
    denoiser = denoiser_of(pipe)
    spans = next(a for a in ADAPTERS.values() if a.denoiser_class == type(denoiser).__name__).list_spans(denoiser)
    last = denoiser.get_submodule(spans.get(STACK, next(iter(spans.values()))).modules[-1])
    leaf = next(m for m in last.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))
    return leaf.register_forward_hook(lambda *_: ran.append(1))


def test_threshold_0_changes_no_bit_and_removal_is_exact(pipe_case: Case) -> None:
    pipe, kwargs = pipe_case
    plain, before = run(pipe, kwargs), attributes(pipe)
    for kind in supported(pipe, list(PolicyKind)):
        attachment = _attach(pipe, with_policy(pipe, kwargs, kind, 0.0))
        result = run(pipe, kwargs)
        if "threshold" in policy(kind, 0.0, 4).to_json():
            assert torch.equal(result, plain), kind
            assert attachment.policy is not None
            assert attachment.policy.usage.computed_calls == n_calls(pipe, kwargs)
        remove(pipe)
        assert torch.equal(run(pipe, kwargs), plain), kind
        assert attributes(pipe) == before, kind


def test_a_large_threshold_computes_less_as_a_hook_counts_and_twice_the_same(pipe_case: Case) -> None:
    pipe, kwargs = pipe_case
    kwargs = {**kwargs, "num_inference_steps": STEPS}
    plain = run(pipe, kwargs)
    for kind in supported(pipe, OWN):
        ran: list[int] = []
        hook = count_last_block(pipe, ran)
        attachment = _attach(pipe, with_policy(pipe, kwargs, kind, LARGE))
        first = run(pipe, kwargs)
        hook.remove()
        assert attachment.policy is not None
        usage = attachment.policy.usage
        assert usage.computed_calls == len(ran) < n_calls(pipe, kwargs), kind
        assert not torch.equal(first, plain), kind
        assert torch.isfinite(first).all(), kind
        assert torch.equal(run(pipe, kwargs), first), kind
        assert usage.computed_calls == len(ran), kind


@pytest.mark.parametrize("kind", PolicyKind)
def test_a_run_that_fails_leaves_no_state(kind: PolicyKind, flux_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-flux", steps=STEPS)
    _attach(flux_pipe, with_policy(flux_pipe, kwargs, kind, LARGE))
    expected = run(flux_pipe, kwargs)

    def fail(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 5:
            raise KeyboardInterrupt
        return values

    with pytest.raises(KeyboardInterrupt):
        run(flux_pipe, kwargs, callback_on_step_end=fail)
    assert torch.equal(run(flux_pipe, kwargs), expected)


def test_diffusers_first_block_and_ours_are_one_rule(flux_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-flux", steps=STEPS)
    results = []
    for kind in (PolicyKind.FIRST_BLOCK, PolicyKind.DIFFUSERS_FIRST_BLOCK):
        attachment = _attach(flux_pipe, with_policy(flux_pipe, kwargs, kind, 0.3))
        results.append((run(flux_pipe, kwargs), attachment.policy.usage.computed_calls))  # type: ignore[union-attr]
    assert results[0][1] == results[1][1] < STEPS
    assert float((results[0][0] - results[1][0]).norm() / results[0][0].norm()) < 1e-5


def test_diffusers_caches_are_refused_where_diffusers_has_none(
    pixart_pipe: Any, flux_pipe: Any, small_args: Any
) -> None:
    schedule = Schedule(n_steps=4, policy=policy(PolicyKind.DIFFUSERS_FIRST_BLOCK, 0.1, 4))
    with pytest.raises(ScheduleMismatchError, match="PixArtTransformer2DModel has none"):
        _attach(pixart_pipe, schedule)
    from diffusers import FirstBlockCacheConfig

    flux_pipe.transformer.enable_cache(FirstBlockCacheConfig())  # type: ignore[no-untyped-call]
    try:
        with pytest.raises(ScheduleMismatchError, match=r"call disable_cache\(\) first"):
            _attach(flux_pipe, schedule)
    finally:
        flux_pipe.transformer.disable_cache()
    low = CachePolicy(kind=PolicyKind.DIFFUSERS_FASTERCACHE, window=(-1.0, 1001.0))
    _attach(flux_pipe, Schedule(n_steps=4, policy=low))
    with pytest.raises(ScheduleMismatchError, match="must lie below the first timestep, 1000; got 1001"):
        run(flux_pipe, small_args("mini-flux"))


def test_the_denoisers_that_are_said_to_have_a_cache_mixin_have_one() -> None:
    import diffusers

    classes = {name: getattr(diffusers, name) for name in ADAPTERS if name != PolicyTransformer.__name__}
    assert {name for name, kind in classes.items() if issubclass(kind, CacheMixin)} == CACHE_MIXIN


def computed(worker: Worker, schedule: Schedule) -> tuple[int, float]:
    """MACs and network calls of a run over two prompts."""
    usage = worker._run(schedule, FIDELITY, None).usage
    assert usage is not None
    return worker._work.macs(schedule, usage), usage.computed_calls


def test_a_policy_runs_with_our_solvers_too(pixart: Worker) -> None:
    condition = pixart.condition
    time = uniform_lambda(condition.noise_schedule, STEPS, t_start=condition.start_timestep)
    solver = make_solver("dpmpp-2m", STEPS, condition.noise_schedule)
    whole = pixart._work.macs(Schedule(n_steps=STEPS))
    for kind in (PolicyKind.SADA, PolicyKind.FIRST_BLOCK):
        chosen = policy(kind, LARGE, STEPS)
        macs, calls = computed(pixart, Schedule(n_steps=STEPS, time=time, solver=solver, policy=chosen))
        assert calls < STEPS
        assert macs < whole


def test_measured_macs_are_those_of_the_computed_calls(pixart: Worker, flux: Worker) -> None:
    for worker in (pixart, flux):
        whole = worker._work.macs(Schedule(n_steps=STEPS))
        assert computed(worker, Schedule(n_steps=STEPS, policy=policy(PolicyKind.SADA, 0.0, STEPS))) == (whole, STEPS)
        macs, calls = computed(worker, Schedule(n_steps=STEPS, policy=policy(PolicyKind.SADA, LARGE, STEPS)))
        assert macs == pytest.approx(whole * calls / STEPS)
    macs, _ = computed(flux, Schedule(n_steps=STEPS, policy=policy(PolicyKind.DIFFUSERS_PAB, 0.0, STEPS)))
    assert 0.5 * whole < macs < whole


def test_a_worker_scores_a_policy_by_what_it_computed_and_refuses_what_can_not_run(pixart: Worker) -> None:
    one = FIDELITY.first(1)
    found = pixart.score(Schedule(n_steps=STEPS, policy=policy(PolicyKind.FIRST_BLOCK, LARGE, STEPS)), one)
    assert isinstance(found, Measurement)
    assert found.network_calls < STEPS
    assert found.macs < 0.5 * found.baseline_macs
    refused = pixart.score(Schedule(n_steps=STEPS, policy=policy(PolicyKind.DIFFUSERS_PAB, 0.0, STEPS)), one)
    assert isinstance(refused, Failure)
    assert refused.kind is FailureKind.INVALID


def test_calibration_is_measured_with_the_edges_and_kept(flux: Worker) -> None:
    first = flux.edge_costs(FIDELITY, 1).calibration
    assert first is not None
    assert len(first.ratios) == flux.condition.n_steps
    assert all(0.5 < ratio < 2.0 for ratio in first.ratios)
    assert len(first.polynomial) == 5
    assert flux.edge_costs(FIDELITY, 1).calibration == first


def test_a_file_with_a_policy_gives_the_same_latents_on_a_new_pipeline(
    flux: Worker, flux_pipe: Any, small_args: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    kwargs = small_args("mini-flux", steps=STEPS)
    schedule = with_policy(flux_pipe, kwargs, PolicyKind.FIRST_BLOCK, 0.3)
    _attach(flux_pipe, schedule)
    expected = run(flux_pipe, kwargs)
    remove(flux_pipe)
    plain = run(flux_pipe, kwargs)
    save_schedule_file(tmp_path / "p.json", ScheduleFile(schedule=schedule, condition=flux.condition))
    folder = tmp_path / "model"
    flux_pipe.save_pretrained(folder)
    fresh: Any = DiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
        str(folder), torch_dtype=torch.float32, local_files_only=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another folder, and smaller images
        autotune.apply(fresh, tmp_path / "p.json")
        # Not to the last bit: weights lie elsewhere in memory, and matrix products may sum in another order there.
        torch.testing.assert_close(run(fresh, kwargs), expected, rtol=1e-4, atol=1e-5)
    autotune.remove(fresh)
    assert (expected - plain).abs().max() > 1e-2, "the policy does something"
    torch.testing.assert_close(run(fresh, kwargs), plain, rtol=1e-4, atol=1e-5)


def outputs_of(pipe: Any, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """What the network gives in each call of a run."""
    outputs: list[torch.Tensor] = []
    hook = pipe.transformer.register_forward_hook(lambda module, args, made: outputs.append(made[0]))
    run(pipe, kwargs)
    hook.remove()
    return outputs


@pytest.mark.parametrize("name", SEQUENTIAL)
@pytest.mark.parametrize("kind", [kind for kind in PolicyKind if kind.by_diffusers])
def test_caches_of_diffusers_keep_the_branches_of_guidance_in_two_calls_apart(
    name: str, kind: PolicyKind, random_pipes: dict[str, Any]
) -> None:
    """Nothing can be reused in the first step, unless the second branch takes what the first one has left."""
    pipe, kwargs = random_pipes[name], {**random_args(name), "num_inference_steps": 6}
    plain = outputs_of(pipe, kwargs)
    _attach(pipe, with_policy(pipe, kwargs, kind, LARGE))
    for _ in range(2):
        cached = outputs_of(pipe, kwargs)
        assert all(torch.equal(one, other) for one, other in zip(cached[:2], plain[:2], strict=True))
        assert not torch.equal(cached[-1], plain[-1]), "something must have been reused"
    remove(pipe)


def test_a_policy_that_is_refused_leaves_the_schedule_before_it(random_pipes: dict[str, Any]) -> None:
    pipe, kwargs = random_pipes["sd3"], random_args("sd3")
    inventory = list_inventory(pipe)
    plan = CachePlan.from_array(np.repeat([[0], [1], [0], [1]], len(inventory), axis=1))
    _attach(pipe, Schedule(n_steps=4, cache=plan))
    cached = run(pipe, kwargs)
    with pytest.raises(ScheduleMismatchError, match="CacheMixin"):
        _attach(pipe, with_policy(pipe, kwargs, PolicyKind.DIFFUSERS_FIRST_BLOCK, 0.1))
    assert torch.equal(run(pipe, kwargs), cached)
    remove(pipe)
    assert not torch.equal(run(pipe, kwargs), cached)


def test_a_cache_of_diffusers_takes_the_place_of_another(flux_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-flux", steps=STEPS)
    expected = {}
    for kind in (PolicyKind.DIFFUSERS_PAB, PolicyKind.DIFFUSERS_TAYLORSEER):
        _attach(flux_pipe, with_policy(flux_pipe, kwargs, kind, 0.1))
        expected[kind] = run(flux_pipe, kwargs)
        remove(flux_pipe)
    for kind in (*expected, *expected):
        _attach(flux_pipe, with_policy(flux_pipe, kwargs, kind, 0.1))
        assert torch.equal(run(flux_pipe, kwargs), expected[kind])
