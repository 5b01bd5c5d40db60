import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.apply import _attach, attach, remove
from autotune.evaluators.cost_designs import designed_schedules
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.latency_fit import SiteFigures, TimedRun, fit_latency
from autotune.evaluators.site_timing import DeviceClock, SiteTimer
from autotune.evaluators.small_flux import small_flux_condition, small_flux_inventory
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_memory import CacheMemory
from autotune.spaces.cache_plan import CachePlan, cell_use
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory
from autotune.spaces.latency_model import LatencyModel, written
from autotune.spaces.schedule import Schedule, canonical_schedule

from .conftest import call_args
from .random_pipelines import NAMES, SEQUENTIAL, random_args

N_CALLS = 6


def run(pipe: Any, name: str) -> None:
    args = random_args(name, steps=N_CALLS) if name in NAMES else call_args(name, steps=N_CALLS)
    pipe(generator=torch.Generator("cpu").manual_seed(0), **args)


def watched(pipe: Any, name: str, inventory: Inventory) -> SiteTimer:
    adapter = find_adapter(pipe)
    denoiser = getattr(pipe, adapter.denoiser_attr)
    spans, norms = adapter.list_spans(denoiser), adapter.list_norms(denoiser)
    timer = SiteTimer(DeviceClock(torch.device("cpu")), denoiser, inventory, spans, norms)
    with timer.watching(pipe.scheduler):
        run(pipe, name)
    return timer


def held_bytes(pipe: Any, name: str) -> int:
    """Most bytes of cached values and differences at one time, seen in a run of the applied schedule."""
    store, guidance = pipe._autotune.cache._store, pipe._autotune.guidance
    denoiser, peaks, before = find_adapter(pipe).denoiser_of(pipe), [0], [0]

    def look(*_: Any) -> None:
        stored = [] if guidance is None else [d for entries in guidance._differences.values() for _, d in entries]
        differences = sum(tensor.nbytes for tensor in stored)
        peaks.extend((store.peak_bytes + before[0], store.n_bytes + differences))
        before[0] = differences
        store.reset_peak()

    hook = denoiser.register_forward_hook(look)
    run(pipe, name)
    hook.remove()
    return max(peaks)


@pytest.mark.parametrize("name", ["mini-flux", "mini-pixart", "mini-sd", *SEQUENTIAL])
def test_predicted_memory_is_what_the_runtime_holds(
    name: str, flux_pipe: Any, pixart_pipe: Any, sd_pipe: Any, random_pipes: dict[str, Any]
) -> None:
    pipe = {"mini-flux": flux_pipe, "mini-pixart": pixart_pipe, "mini-sd": sd_pipe, **random_pipes}[name]
    inventory = list_inventory(pipe)
    timer = watched(pipe, name, inventory)
    memory = CacheMemory(
        value_bytes=timer.value_bytes(), order=timer.order(), difference_bytes=timer.difference_bytes()
    )
    rng = np.random.default_rng(3)
    actions, n_calls, most = list(GuidanceAction), N_CALLS + (name == "mini-sd"), 0
    for trial in range(12):
        sites = [inventory.leaves, inventory.outermost, range(len(inventory))][trial % 3]
        table = np.zeros((n_calls, len(inventory)), np.uint8)
        chosen = rng.random((n_calls, len(sites))) < rng.uniform(0.2, 0.9)
        table[:, list(sites)] = chosen * rng.integers(1, len(CacheAction), chosen.shape)
        other = None
        if name != "mini-flux" and trial >= 6:
            other = CachePlan.from_array(rng.permuted(table, axis=0))
        column = None
        if name != "mini-flux" and trial % 2:
            rows = [actions[int(k)] for k in rng.integers(0, len(actions), n_calls)]
            column = (GuidanceAction.BOTH, *rows[1:])
            if trial % 4 == 3:  # the first branch has values that the second one lacks
                column = (GuidanceAction.CONDITIONAL, *column[:-1])
        plan = CachePlan.from_array(table)
        schedule = Schedule(n_steps=N_CALLS, cache=plan, unconditional_cache=other, guidance=column)
        schedule = canonical_schedule(schedule, inventory)
        if schedule.cache is None:  # nothing is read
            continue
        attachment = _attach(pipe, schedule, inventory=inventory)
        held = held_bytes(pipe, name)
        assert attachment.cache is not None
        assert attachment.cache.missed == 0
        remove(pipe)
        assert memory.peak_bytes(schedule, inventory) == held
        most = max(most, held)
    assert most > 0


class CountingClock(DeviceClock):
    """Its moments are numbered: a time is how many moments were noted in it."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.n = 0

    def mark(self) -> float:
        self.n += 1
        return float(self.n)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_sites_take_half_of_a_step_whose_second_call_is_dropped(name: str, random_pipes: dict[str, Any]) -> None:
    pipe = random_pipes[name]
    inventory, adapter = list_inventory(pipe), find_adapter(pipe)
    seconds = []
    for action in (GuidanceAction.BOTH, GuidanceAction.CONDITIONAL):
        attach(pipe, Schedule(n_steps=N_CALLS, guidance=(action,) * N_CALLS))
        spans, norms = adapter.list_spans(pipe.transformer), adapter.list_norms(pipe.transformer)
        timer = SiteTimer(CountingClock(), pipe.transformer, inventory, spans, norms)
        with timer.watching(pipe.scheduler):
            run(pipe, name)
        remove(pipe)
        seconds.append(timer.site_seconds())
        assert len(timer.value_bytes()) == (2 if action is GuidanceAction.BOTH else 1)
    assert seconds[0][list(inventory.leaves)].min() > 0.0
    np.testing.assert_allclose(seconds[1], seconds[0] / 2)


def test_timers_see_every_site_and_leave_nothing_behind(sd_pipe: Any) -> None:
    inventory = list_inventory(sd_pipe)
    timer = watched(sd_pipe, "mini-sd", inventory)
    assert (timer.site_seconds()[list(inventory.leaves)] > 0.0).all()
    assert sorted(timer.order()) == list(range(len(inventory)))
    assert timer.order()[-1] == 0  # the hidden state ends last
    assert "forward" not in vars(sd_pipe.unet.mid_block)
    assert "step" not in vars(sd_pipe.scheduler)


@pytest.mark.parametrize(
    ("slow", "site"),
    [
        ("single_transformer_blocks.1.act_mlp", "single_transformer_blocks.1.proj_out"),
        ("single_transformer_blocks.1.norm.norm", "single_transformer_blocks.1.proj_out"),
        ("transformer_blocks.1.norm1_context.norm", "transformer_blocks.1.attn"),
        ("transformer_blocks.1.norm2", "transformer_blocks.1.ff"),
    ],
)
def test_what_a_leaf_saves_besides_itself_counts_as_its_time(
    slow: str, site: str, flux_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory, module = list_inventory(flux_pipe), flux_pipe.transformer.get_submodule(slow)
    forward = module.forward

    def late(*args: Any) -> Any:
        time.sleep(0.05)
        return forward(*args)

    monkeypatch.setattr(module, "forward", late)
    seconds = watched(flux_pipe, "mini-flux", inventory).site_seconds()
    monkeypatch.undo()
    names = [s.name for s in inventory.sites]
    assert seconds[names.index(site)] > 0.05
    assert (np.delete(seconds, names.index(site)) < 0.05).all()


@pytest.mark.parametrize(("write_ms", "drops"), [(0.01, False), (0.2, False), (0.01, True)])
def test_the_fit_finds_the_times_that_made_the_runs(write_ms: float, drops: bool) -> None:
    """On a device that grows slower, each run a little off that; storing takes up to a tenth of a call.

    Timers are a tenth too fast with both branches, and a tenth too slow with one.
    """
    inventory = small_flux_inventory()
    condition = small_flux_condition(inventory)
    n_calls, n_images, n_sites = 20, 4, len(inventory)
    rng = np.random.default_rng(0)
    seconds = rng.uniform(0.002, 0.01, n_sites)
    true = LatencyModel(
        run_ms=40.0, call_ms=5.0, half_call_ms=5.0, solver_ms=0.5,
        site_ms=tuple((1.1 * 250.0 * seconds).tolist()), half_site_ms=tuple((0.9 * 250.0 * seconds / 2).tolist()),
        read_ms=(0.02,) * n_sites, term_ms=(0.05,) * n_sites, write_ms=(write_ms,) * n_sites,
    )  # fmt: skip
    default = Schedule(n_steps=n_calls)
    designs = designed_schedules(condition, inventory, n_calls, drops=drops)
    schedules = [default, *designs, default]
    speeds = np.linspace(0.8, 1.3, len(schedules)) * rng.uniform(0.97, 1.03, len(schedules))
    runs = [timed(true, schedule, inventory, n_images, speed) for schedule, speed in zip(
        schedules, speeds, strict=True)]  # fmt: skip
    figures = SiteFigures(
        seconds=seconds, half_seconds=seconds / 2, value_bytes=np.full(n_sites, 1000.0), moved=np.zeros(n_sites)
    )
    fitted = fit_latency(runs, figures, inventory, n_images)
    scale = fitted.run_time_ms(default, inventory, n_calls) / true.run_time_ms(default, inventory, n_calls)
    for schedule in schedules:
        if schedule.solver is None:
            expected = scale * true.run_time_ms(schedule, inventory, n_calls)
            assert fitted.run_time_ms(schedule, inventory, n_calls) == pytest.approx(expected, rel=0.015)
    assert fitted.solver_ms == pytest.approx(0.5, rel=0.5)  # its run has a speed of its own


def timed(true: LatencyModel, schedule: Schedule, inventory: Inventory, n_images: int, speed: float) -> TimedRun:
    """A run of this model on a device that is slower by a factor."""
    n_calls = 20 if schedule.solver is None else schedule.n_steps
    unit = n_images * speed / 1000.0
    calls = true.call_times_ms(schedule, inventory, n_calls) * unit
    step = (1.0 + true.solver_ms * (schedule.solver is not None)) * unit
    return TimedRun(
        schedule=schedule, call_seconds=calls[1:], seconds=calls.sum() + true.run_ms * unit, step_seconds=step
    )


def test_more_rounds_design_other_runs_and_are_kept_apart(flux: Worker) -> None:
    inventory = small_flux_inventory()
    condition = small_flux_condition(inventory)
    first, second = (list(designed_schedules(condition, inventory, 20, drops=True, seed=seed)) for seed in (0, 1))
    assert first == list(designed_schedules(condition, inventory, 20, drops=True))
    assert [schedule for schedule in first if schedule in second] == [first[-1]]  # fewer steps, a solver of their own
    fidelity = Fidelity(name="calibration", prompts=("a red circle",), seeds=(0,))
    one, two = flux.cost_model(fidelity), flux.cost_model(fidelity, 2)
    assert one != two == flux.cost_model(fidelity, 2)
    assert one.memory == two.memory


@pytest.mark.parametrize("n_calls", [20, 50])
def test_every_designed_cache_has_calls_that_compute_all_and_store_nothing(n_calls: int) -> None:
    """What storing costs would pass for the device's speed otherwise; in the middle and at the end, as it drifts."""
    inventory = small_flux_inventory()
    for schedule in designed_schedules(small_flux_condition(inventory), inventory, n_calls, drops=False):
        if schedule.cache is not None:
            use = cell_use(schedule.cache, inventory)
            free = np.flatnonzero(use.runs.all(axis=1) & ~written(use).any(axis=1)) / n_calls
            assert free.max() >= 0.85
            assert ((free > 0.4) & (free < 0.7)).any()
            assert not use.runs.all()


def test_a_worker_keeps_its_model_and_says_what_is_faster(flux: Worker) -> None:
    fidelity = Fidelity(name="calibration", prompts=("a red circle",), seeds=(0,))
    model = flux.cost_model(fidelity)
    assert flux.cost_model(fidelity) == model
    inventory, n_calls = flux.inventory, model.n_calls
    table = np.zeros((n_calls, len(inventory)), np.uint8)
    default = Schedule(n_steps=flux.condition.n_steps)
    latencies = [1.0]
    for n_reused in (5, 10, 15):
        table[n_calls - n_reused :, list(inventory.outermost)] = CacheAction.REUSE
        latencies.append(model.relative_latency(replace(default, cache=CachePlan.from_array(table))))
    assert latencies == sorted(latencies, reverse=True)
    assert 0.1 < latencies[-1] < 0.6  # a quarter of the calls, the sampler and the decoder
    assert model.relative_latency(Schedule(n_steps=n_calls // 2)) == pytest.approx(0.5, abs=0.15)
