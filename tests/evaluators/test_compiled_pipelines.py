"""Schedules on pipelines that `torch.compile` is at work on, in each of the ways in which a user may compile."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import attach, compile_leaves, remove
from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule

from .conftest import call_args, load
from .mini_pipelines import attributes, n_calls, random_plan, run
from .random_pipelines import NAMES, make_pipeline, random_args

Case = tuple[Any, dict[str, Any]]


class Graphs:
    """A backend that runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.n += 1
        return graph.forward


@pytest.fixture(params=["mini-flux", "mini-pixart"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """A small pipeline of its own, since a compiled module stays compiled."""
    torch._dynamo.reset()
    name = request.param
    yield (make_pipeline(name), random_args(name)) if name in NAMES else (shortened(load(name)), call_args(name))
    torch._dynamo.reset()


def shortened(pipe: Any) -> Any:
    """The pipeline with two blocks of each kind; a UNet is small enough."""
    for name in ("transformer_blocks", "single_transformer_blocks"):
        if hasattr(getattr(pipe, "transformer", None), name):
            setattr(pipe.transformer, name, getattr(pipe.transformer, name)[:2])
    return pipe


def plans(pipe: Any, kwargs: dict[str, Any]) -> dict[str, CachePlan]:
    """Plans that differ in what they reuse, and where."""
    inventory = list_inventory(pipe)
    leaves, shape = list(inventory.leaves), (n_calls(pipe, kwargs), len(inventory))
    one, every_second, forecast, scattered = np.zeros((4, *shape), np.uint8)
    one[1, leaves[0]] = every_second[1::2, leaves] = CacheAction.REUSE
    forecast[2:, leaves] = CacheAction.TAYLOR_1
    scattered[:, leaves] = np.random.default_rng(0).random((shape[0], len(leaves))) < 0.5
    tables = {"one": one, "every second": every_second, "forecast": forecast, "scattered": scattered}
    tree = {"tree": random_plan(pipe, kwargs, 0, forecasts=True)}
    return {name: CachePlan.from_array(table) for name, table in tables.items()} | tree


def deviation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("case", "most"), [("mini-flux", 8), ("mini-pixart", 8), ("mini-sd", 40), ("wan", 12)], indirect=["case"]
)
def test_graphs_of_compiled_leaves_do_not_depend_on_the_cache_plan(case: Case, most: int) -> None:
    pipe, kwargs = case
    plain, expected, graphs = run(pipe, kwargs), {}, Graphs()
    for name, plan in plans(pipe, kwargs).items():
        attach(pipe, Schedule(n_steps=4, cache=plan))
        expected[name] = run(pipe, kwargs)
    remove(pipe)
    compile_leaves(pipe, backend=graphs)
    compiled, before = run(pipe, kwargs), attributes(pipe)
    n_graphs = graphs.n
    assert deviation(compiled, plain) < 1e-4
    for name, plan in plans(pipe, kwargs).items():
        attach(pipe, Schedule(n_steps=4, cache=plan))
        assert deviation(run(pipe, kwargs), expected[name]) < 1e-4, name
        assert deviation(expected[name], plain) > 2e-4, name
    remove(pipe)
    assert torch.equal(run(pipe, kwargs), compiled)
    assert attributes(pipe) == before
    assert graphs.n == n_graphs <= most


def test_dropped_branches_add_graphs_of_half_batches_once(case: Case) -> None:
    """Whatever the column: a batch of another size is compiled once more."""
    pipe, kwargs = case
    if not hasattr(pipe.transformer, "adaln_single"):
        pytest.skip("mini-flux doesn't guide")
    both, stored, alone = GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL
    columns = ((both, stored, both, stored), (alone, both, both, GuidanceAction.LINEAR), (alone,) * 4)
    schedules = [Schedule(n_steps=4, guidance=column) for column in columns]
    schedules.append(replace(schedules[0], cache=plans(pipe, kwargs)["tree"]))
    expected, graphs = [], Graphs()
    for schedule in schedules:
        attach(pipe, schedule)
        expected.append(run(pipe, kwargs))
    remove(pipe)
    compile_leaves(pipe, backend=graphs)
    run(pipe, kwargs)
    n_whole, counts = graphs.n, []
    for schedule, plain in zip(schedules, expected, strict=True):
        attach(pipe, schedule)
        assert deviation(run(pipe, kwargs), plain) < 1e-4
        counts.append(graphs.n)
    assert n_whole < counts[0] <= 2 * n_whole
    assert set(counts) == {counts[0]}


def set_on_modules(pipe: Any) -> list[dict[str, int]]:
    """What is set on the modules of the denoiser, and on the one that `torch.compile` may have put around it."""
    return [{name: id(value) for name, value in vars(module).items()} for module in pipe.transformer.modules()]


def compile_blocks(pipe: Any, backend: Any) -> None:
    pipe.transformer.compile_repeated_blocks(backend=backend)


def compile_in_place(pipe: Any, backend: Any) -> None:
    pipe.transformer.compile(backend=backend)


def compile_around(pipe: Any, backend: Any) -> None:
    pipe.transformer = torch.compile(pipe.transformer, backend=backend)


@pytest.mark.parametrize(
    ("case", "compile_it"),
    [("mini-flux", compile_blocks), ("mini-flux", compile_in_place), ("mini-pixart", compile_around)],
    indirect=["case"],
)
def test_larger_compiled_parts_run_the_schedule_and_are_restored(
    case: Case, compile_it: Callable[[Any, Any], None]
) -> None:
    pipe, kwargs = case
    schedule = Schedule(n_steps=4, cache=plans(pipe, kwargs)["tree"])
    attach(pipe, schedule)
    expected = run(pipe, kwargs)
    remove(pipe)
    graphs = Graphs()
    compile_it(pipe, graphs)
    compiled, before, n_graphs = run(pipe, kwargs), set_on_modules(pipe), graphs.n
    attach(pipe, schedule)
    assert deviation(run(pipe, kwargs), expected) < 1e-4
    assert graphs.n > n_graphs > 0
    remove(pipe)
    n_graphs = graphs.n
    assert torch.equal(run(pipe, kwargs), compiled)
    assert set_on_modules(pipe) == before
    assert graphs.n == n_graphs


@pytest.mark.parametrize("compile_it", [compile_in_place, compile_around])
def test_denoiser_that_was_compiled_after_a_schedule_was_applied_is_refused(
    small_args: Any, compile_it: Callable[[Any, Any], None]
) -> None:
    pipe, kwargs = shortened(load("mini-flux")), small_args("mini-flux")
    attach(pipe, Schedule(n_steps=4, cache=random_plan(pipe, kwargs, 0)))
    compile_it(pipe, Graphs())
    with pytest.raises(ScheduleMismatchError, match=r"must be compiled before .* its FluxTransformer2DModel was"):
        run(pipe, kwargs)


def test_leaf_that_was_compiled_again_after_a_schedule_was_applied_is_refused(small_args: Any) -> None:
    pipe, kwargs = shortened(load("mini-flux")), small_args("mini-flux")
    leaf = pipe.transformer.transformer_blocks[0].ff
    leaf.compile(backend=Graphs())
    attach(pipe, Schedule(n_steps=4, cache=plans(pipe, kwargs)["every second"]))
    leaf.compile(backend=Graphs())
    with pytest.raises(ScheduleMismatchError, match=r"must be compiled before .* its FeedForward was"):
        run(pipe, kwargs)


def test_graphs_that_must_span_a_gate_are_refused(small_args: Any) -> None:
    pipe, kwargs = shortened(load("mini-flux")), small_args("mini-flux")
    pipe.transformer.compile_repeated_blocks(backend=Graphs(), fullgraph=True)
    attach(pipe, Schedule(n_steps=4, cache=plans(pipe, kwargs)["every second"]))
    with pytest.raises(Exception, match=r"compile without fullgraph=True, or .* autotune\.compile_leaves"):
        run(pipe, kwargs)
    remove(pipe)
    run(pipe, kwargs)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_a_leaf_compiled_by_inductor_gives_the_eager_result(small_args: Any) -> None:
    torch._dynamo.reset()
    pipe, kwargs = shortened(load("mini-pixart")), small_args("mini-pixart")
    attach(pipe, Schedule(n_steps=4, cache=plans(pipe, kwargs)["scattered"]))
    expected = run(pipe, kwargs)
    remove(pipe)
    for block in pipe.transformer.transformer_blocks:
        block.ff.compile()  # one graph is enough: the others take long to compile
    compiled = run(pipe, kwargs)
    attach(pipe, Schedule(n_steps=4, cache=plans(pipe, kwargs)["scattered"]))
    assert deviation(run(pipe, kwargs), expected) < 1e-4
    remove(pipe)
    assert torch.equal(run(pipe, kwargs), compiled)
