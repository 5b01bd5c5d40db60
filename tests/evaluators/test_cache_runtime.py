"""The cache runtime on the reference models, against a naive executor that keeps every value of every site."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import _attach, remove
from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_plan import CacheAction, CachePlan, canonical_plan, cell_use
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.inventory import Inventory, Relation
from autotune.spaces.schedule import GuidanceAction, Schedule

Case = tuple[Any, dict[str, Any]]


@pytest.fixture(autouse=True)
def _clean(flux_pipe: Any, pixart_pipe: Any, sd_pipe: Any) -> Iterator[None]:
    yield
    for pipe in (flux_pipe, pixart_pipe, sd_pipe):
        remove(pipe)


def run(pipe: Any, kwargs: dict[str, Any], **changes: Any) -> torch.Tensor:
    images = pipe(**{**kwargs, **changes}, generator=torch.Generator().manual_seed(7)).images
    assert isinstance(images, torch.Tensor)
    return images


def n_calls(pipe: Any, kwargs: dict[str, Any]) -> int:
    return int(kwargs["num_inference_steps"]) + (type(pipe.scheduler).__name__ == "PNDMScheduler")


def random_plan(pipe: Any, kwargs: dict[str, Any], seed: int) -> CachePlan:
    """Half of all cells reused; of UNet stages only a quarter, since they hide what is inside."""
    inventory = list_inventory(pipe)
    rates = np.array([0.25 if s.component == "stage" else 0.5 for s in inventory.sites])
    rng = np.random.default_rng(seed)
    return CachePlan.from_array(rng.random((n_calls(pipe, kwargs), len(inventory))) < rates)


def schedule(kwargs: dict[str, Any], plan: CachePlan | None, guidance: tuple[GuidanceAction, ...] | None = None) -> Any:
    return Schedule(n_steps=kwargs["num_inference_steps"], cache=plan, guidance=guidance)


def denoiser_of(pipe: Any) -> Any:
    return getattr(pipe, "transformer", None) or pipe.unet


def attributes(pipe: Any) -> list[list[str]]:
    return [sorted(vars(owner)) for owner in (pipe, pipe.scheduler, *denoiser_of(pipe).modules())]


def copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else type(value)(copied(x) for x in value)


def halves(value: Any, part: int) -> Any:
    if isinstance(value, torch.Tensor):
        return value.chunk(2)[part]
    return type(value)(halves(x, part) for x in value)


def joined(u: Any, c: Any) -> Any:
    return torch.cat([u, c]) if isinstance(c, torch.Tensor) else type(c)(joined(*pair) for pair in zip(u, c))  # noqa: B905


class Naive:
    """Executes a plan by keeping a copy of every value, and skipping nothing.

    Values are kept per call of a row and, if `dropped` is given, per guidance branch. Rows come from counting the
    denoiser's calls, `calls_per_row` to a row.
    """

    def __init__(self, pipe: Any, plan: CachePlan, dropped: tuple[bool, ...] = (), calls_per_row: int = 1) -> None:
        self.denoiser, self.plan, self.calls_per_row = denoiser_of(pipe), plan, calls_per_row
        self.dropped = dropped
        self.values: dict[Any, Any] = {}
        self.n = -1
        self.modules = [self.denoiser.get_submodule(s.name) for s in list_inventory(pipe).sites]

    def __enter__(self) -> None:
        self.hook = self.denoiser.register_forward_pre_hook(lambda *_: setattr(self, "n", self.n + 1))
        for i, module in enumerate(self.modules):
            module.forward = self.gate(i, module.forward)

    def __exit__(self, *_: object) -> None:
        self.hook.remove()
        for module in self.modules:
            del module.forward

    def gate(self, i: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            row, call = divmod(self.n, self.calls_per_row)
            branches = [0, 1] if self.dropped and not self.dropped[row] else [1]
            keys = [(call, i, branch) for branch in branches]
            if row == 0 or self.plan.table[row, i] == CacheAction.RECOMPUTE:
                value = original(*args, **kwargs)
                parts = [value] if len(keys) == 1 else [halves(value, 0), halves(value, 1)]
                self.values |= {key: copied(part) for key, part in zip(keys, parts, strict=True)}
                return value
            parts = [copied(self.values[key]) for key in keys]
            return parts[0] if len(parts) == 1 else joined(*parts)

        return forward


def test_all_recompute_is_bit_identical_and_so_is_the_pipeline_after_removal(pipe_case: Case) -> None:
    pipe, kwargs = pipe_case
    inventory = list_inventory(pipe)
    plain = run(pipe, kwargs)
    before = attributes(pipe)
    plan = CachePlan.from_array(np.zeros((n_calls(pipe, kwargs), len(inventory))))
    attachment = _attach(pipe, schedule(kwargs, plan), every_site=True)
    assert sum("forward" in vars(m) for m in denoiser_of(pipe).modules()) == len(inventory) + 1
    assert torch.equal(run(pipe, kwargs), plain)
    assert attachment.cache is not None
    assert (attachment.cache.missed, attachment.cache.peak_bytes) == (0, 0)
    remove(pipe)
    assert torch.equal(run(pipe, kwargs), plain)
    assert attributes(pipe) == before


@pytest.mark.parametrize("seed", [0, 1])
def test_run_equals_naive_execution_twice(pipe_case: Case, seed: int) -> None:
    pipe, kwargs = pipe_case
    kwargs = {**kwargs, "num_inference_steps": 5, "prompt": ["a red circle", "a cat"]}
    plan = random_plan(pipe, kwargs, seed)
    with Naive(pipe, plan):
        expected = run(pipe, kwargs)
    attachment = _attach(pipe, schedule(kwargs, plan))
    first = run(pipe, kwargs)
    assert attachment.cache is not None
    assert (attachment.cache.missed, attachment.cache.stored_bytes) == (0, 0)
    assert torch.equal(first, expected)
    assert torch.equal(run(pipe, kwargs), first)
    remove(pipe)
    assert not torch.equal(run(pipe, kwargs), first)


@pytest.mark.parametrize("seed", [2, 3])
def test_canonical_plan_and_flipped_dead_genes_change_no_bit(pipe_case: Case, seed: int) -> None:
    pipe, kwargs = pipe_case
    inventory, plan = list_inventory(pipe), random_plan(pipe, kwargs, seed)
    use = cell_use(plan, inventory)
    dead = ~use.called | ~(use.runs | use.reads | use.kept)
    assert dead.any() == any(s.parent is not None for s in inventory.sites)
    flipped = CachePlan.from_array(plan.table ^ dead)
    results = []
    for variant in (plan, canonical_plan(plan, inventory), flipped):
        attachment = _attach(pipe, schedule(kwargs, variant))
        results.append(run(pipe, kwargs))
        assert attachment.cache is not None
        assert attachment.cache.missed == 0
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_memory_is_taken_by_live_sites_only(pipe_case: Case) -> None:
    pipe, kwargs = pipe_case
    inventory, plan = list_inventory(pipe), random_plan(pipe, kwargs, 5)
    sizes: dict[int, int] = {}

    def size_of(value: Any) -> int:
        return value.nbytes if isinstance(value, torch.Tensor) else sum(size_of(x) for x in value)

    hooks = [
        denoiser_of(pipe).get_submodule(s.name).register_forward_hook(
            lambda m, a, out, i=i: sizes.__setitem__(i, size_of(out))
        )
        for i, s in enumerate(inventory.sites)
    ]  # fmt: skip
    run(pipe, kwargs)
    for hook in hooks:
        hook.remove()
    held: list[int] = []
    attachment = _attach(pipe, schedule(kwargs, plan))
    cache = attachment.cache
    assert cache is not None
    hook = denoiser_of(pipe).register_forward_hook(lambda *_: held.append(cache.stored_bytes))
    run(pipe, kwargs)
    hook.remove()
    kept = cell_use(plan, inventory).kept
    assert held == [sum(size for i, size in sizes.items() if row[i]) for row in kept]
    assert max(held) <= cache.peak_bytes < sum(sizes.values())
    assert cache.stored_bytes == 0


def test_a_plan_gates_only_sites_that_it_reuses(pixart_pipe: Any) -> None:
    inventory = list_inventory(pixart_pipe)
    table = np.zeros((4, len(inventory)))
    table[2, 7] = CacheAction.REUSE
    _attach(pixart_pipe, Schedule(n_steps=4, cache=CachePlan.from_array(table)))
    gated = [name for name, m in pixart_pipe.transformer.named_modules() if name and "forward" in vars(m)]
    assert gated == [inventory.sites[7].name]


def flux_reuse(inventory: Inventory, rows: dict[int, str]) -> CachePlan:
    """Reuse all sites of a component in the given rows."""
    table = np.zeros((4, len(inventory)))
    for row, component in rows.items():
        table[row, [i for i, s in enumerate(inventory.sites) if s.component == component]] = CacheAction.REUSE
    return CachePlan.from_array(table)


def test_leaves_that_feed_a_reused_projection_do_not_run(flux_pipe: Any, small_args: Any) -> None:
    kwargs, inventory = small_args("mini-flux"), list_inventory(flux_pipe)
    ran: list[int] = []
    attachment = _attach(flux_pipe, schedule(kwargs, flux_reuse(inventory, {1: "single_proj_out"})))
    leaf = flux_pipe.transformer.single_transformer_blocks[3].attn.to_q
    hook = leaf.register_forward_hook(lambda *_: ran.append(attachment._clock._steps_done or 0))
    run(flux_pipe, kwargs)
    hook.remove()
    assert ran == [0, 2, 3]


def test_dead_leaves_run_after_all_where_the_projection_lost_its_value(flux_pipe: Any, small_args: Any) -> None:
    kwargs, inventory = small_args("mini-flux"), list_inventory(flux_pipe)
    plain = run(flux_pipe, kwargs)
    attachment = _attach(flux_pipe, schedule(kwargs, flux_reuse(inventory, {1: "single_proj_out"})))
    cache = attachment.cache
    assert cache is not None
    denoiser, forward = flux_pipe.transformer, flux_pipe.transformer.forward

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        cache._store.clear()
        return forward(*args, **kwargs)

    denoiser.forward = forgetful
    result = run(flux_pipe, kwargs)
    denoiser.forward = forward
    assert torch.equal(result, plain)
    assert cache.missed == 8


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
    assert torch.equal(run(sd_pipe, kwargs), expected)


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


def test_two_calls_within_a_row_keep_their_own_values(flux_pipe: Any, small_args: Any) -> None:
    kwargs = {**small_args("mini-flux"), "negative_prompt": "a dog", "true_cfg_scale": 2.5}
    plan = random_plan(flux_pipe, kwargs, 9)
    with Naive(flux_pipe, plan, calls_per_row=2):
        expected = run(flux_pipe, kwargs)
    _attach(flux_pipe, schedule(kwargs, plan))
    assert torch.equal(run(flux_pipe, kwargs), expected)


@pytest.mark.parametrize("name", ["pixart_pipe", "sd_pipe"])
def test_values_of_a_dropped_branch_keep_their_age(name: str, request: pytest.FixtureRequest, small_args: Any) -> None:
    pipe = request.getfixturevalue(name)
    kwargs = {**small_args("mini-" + name[:-5]), "num_inference_steps": 7}
    plan = random_plan(pipe, kwargs, 10)
    both, stored, alone = GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL
    guidance = (both, both, stored, both, alone, both, both, stored)[: plan.n_calls]
    dropped = tuple(action is not both for action in guidance)
    with Naive(pipe, plan, dropped):
        _attach(pipe, schedule(kwargs, None, guidance))
        expected = run(pipe, kwargs)
        remove(pipe)
    attachment = _attach(pipe, schedule(kwargs, plan, guidance))
    result = run(pipe, kwargs)
    assert attachment.cache is not None
    assert attachment.cache.missed == 0
    assert torch.equal(result, expected)


def drive(pipe: Any, rows: list[dict[str, Any]]) -> list[torch.Tensor]:
    """Outputs of the denoiser for given inputs per row, with the scheduler stepped in between."""
    outputs, scheduler = [], pipe.scheduler
    scheduler.set_timesteps(len(rows))
    zeros = torch.zeros(1, 4, 16, 16)
    for row, inputs in enumerate(rows):
        outputs.append(denoiser_of(pipe)(**inputs, return_dict=False)[0])
        scheduler.step(zeros, scheduler.timesteps[row], zeros)
    return outputs


@torch.no_grad()
@pytest.mark.parametrize("with_drops", [False, True])
def test_poison_in_the_unconditional_branch_never_reaches_the_conditional(pixart_pipe: Any, with_drops: bool) -> None:
    pipe, inventory = pixart_pipe, list_inventory(pixart_pipe)
    plan = CachePlan.from_array(np.random.default_rng(11).random((6, len(inventory))) < 0.5)
    both, stored, alone = GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL
    guidance = (both, alone, both, stored, both, both) if with_drops else None
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    for t in range(900, 300, -100):
        x = torch.randn(1, 4, 16, 16, generator=generator)
        rows.append({
            "hidden_states": torch.cat([x, x]), "timestep": torch.tensor([t, t]),
            "encoder_hidden_states": torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(1)),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        })  # fmt: skip
    _attach(pipe, Schedule(n_steps=6, cache=plan, guidance=guidance))
    clean = drive(pipe, rows)
    poisoned = [{**row, "encoder_hidden_states": row["encoder_hidden_states"].clone()} for row in rows]
    poisoned[2]["encoder_hidden_states"][0] = torch.nan
    dirty = drive(pipe, poisoned)
    for row, (a, b) in enumerate(zip(clean, dirty, strict=True)):
        assert torch.equal(a[1], b[1]), row
    assert dirty[2][0].isnan().all()
    assert dirty[-1][0].isnan().any()


def test_code_that_changes_a_stage_in_place_does_not_change_what_is_stored(sd_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-sd")
    inventory = list_inventory(sd_pipe)
    table = np.zeros((5, len(inventory)))
    names = ("mid_block", "up_blocks.0.resnets.1")
    table[1:4, [i for i, s in enumerate(inventory.sites) if s.name in names]] = CacheAction.REUSE
    plan = CachePlan.from_array(table)

    def halve(module: Any, inputs: Any, output: torch.Tensor) -> None:
        output.mul_(0.5)

    hooks = [sd_pipe.unet.get_submodule(name).register_forward_hook(halve) for name in names]
    with Naive(sd_pipe, plan):
        expected = run(sd_pipe, kwargs)
    _attach(sd_pipe, schedule(kwargs, plan))
    assert torch.equal(run(sd_pipe, kwargs), expected)
    for hook in hooks:
        hook.remove()


def test_module_that_runs_twice_in_one_call_is_refused(sd_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-sd")
    _attach(sd_pipe, schedule(kwargs, random_plan(sd_pipe, kwargs, 0)))
    block = sd_pipe.unet.mid_block.attentions[0].transformer_blocks[0]
    block.set_chunk_feed_forward(chunk_size=16, dim=1)
    with pytest.raises(ScheduleMismatchError, match=r"ff ran twice; switch off feed-forward chunking"):
        run(sd_pipe, kwargs)
    block.set_chunk_feed_forward(None)


def test_network_calls_outside_a_run_are_plain(pixart_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-pixart")
    inputs: dict[str, Any] = {
        "hidden_states": torch.ones(2, 4, 16, 16), "timestep": torch.tensor([500, 500]),
        "encoder_hidden_states": torch.ones(2, 16, 64), "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }  # fmt: skip
    with torch.no_grad():
        plain = pixart_pipe.transformer(**inputs).sample
        attachment = _attach(pixart_pipe, schedule(kwargs, random_plan(pixart_pipe, kwargs, 0)))
        assert torch.equal(pixart_pipe.transformer(**inputs).sample, plain)
        run(pixart_pipe, kwargs)
        assert torch.equal(pixart_pipe.transformer(**inputs).sample, plain)
    assert attachment.cache is not None
    assert attachment.cache.stored_bytes == 0


def test_relations_of_the_reference_models(flux_pipe: Any, sd_pipe: Any) -> None:
    relations = (
        {s.relation for s in list_inventory(flux_pipe).sites},
        {s.relation for s in list_inventory(sd_pipe).sites},
    )
    assert relations == ({None, Relation.FEEDS}, {None, Relation.INSIDE})
