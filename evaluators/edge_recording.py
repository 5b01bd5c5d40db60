"""The edge-cost job: a feature of the network, watched during default runs of the unmodified pipeline."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.edge_costs import EdgeCostRecorder
from autotune.evaluators.override import Overrides
from autotune.evaluators.reference import ArtifactCache
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.edge_costs import N_REPLAYS, EdgeCosts, replayed_calls
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import FINAL, Inventory
from autotune.spaces.schedule import Schedule

LONGEST = 8
"""Calls from one refresh to the next, at most."""

KINDS = (CacheAction.REUSE, CacheAction.TAYLOR_1, CacheAction.TAYLOR_2, CacheAction.NEWTON_2)
"""What planners choose from. The Hermite kinds lost to these on all reference models."""


def load_or_measure_edges(
    pipe: Any,
    condition: Condition,
    fidelity: Fidelity,
    inventory: Inventory,
    n_calls: int,
    run: Callable[[Schedule], torch.Tensor],
    artifacts: ArtifactCache | None,
) -> EdgeCosts:
    """Edge costs of the hidden state after the last block, read back if they were measured before.

    The error of a call is what its approximation changes in the hidden state, relative, times what that does to the
    final latents: in up to `N_REPLAYS` more runs one call alone reuses the hidden state of the one before, and the
    amplification is the relative change of the latents over that of the hidden state, between these calls
    interpolated in its logarithm. Without it plans spend their refreshes late, where the hidden state changes most,
    and lose to evenly spread ones.

    Args:
        pipe: the pipeline.
        condition: what the runs are made under.
        fidelity: prompts and seeds of the runs.
        inventory: the sites.
        n_calls: rows of a default run.
        run: executes a schedule on the fidelity and gives the final latents (n, ...).
        artifacts: where costs are kept, as safetensors.
    """
    name = f"edges/{LONGEST}/{N_REPLAYS}/{condition.hash}/{fidelity.hash}"
    stored = artifacts.load(name) if artifacts is not None else None
    if stored is not None:
        data = load(stored)
        return EdgeCosts(tuple(CacheAction(kind) for kind in data["kinds"].tolist()), data["table"])
    recorder = EdgeCostRecorder(n_calls, min(LONGEST, n_calls), KINDS)
    default = Schedule(n_steps=condition.n_steps)
    with _watching(pipe, recorder):
        full = run(default)
    calls = replayed_calls(n_calls)
    changes = []
    for call in calls:
        table = np.zeros((n_calls, len(inventory)), np.uint8)
        table[call, list(inventory.outermost)] = CacheAction.REUSE
        latents = run(replace(default, cache=CachePlan.from_array(table)))
        difference = (latents - full).flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1)
        changes.append(float(difference.mean()))
    errors = recorder.pairwise_errors()[np.array(calls) - 1, 1]
    with np.errstate(divide="ignore"):
        ratios = np.maximum(np.log(np.array(changes) / errors), -50.0)
    costs = recorder.edge_costs(np.exp(np.interp(np.arange(n_calls), calls, ratios)))
    if artifacts is not None:
        artifacts.save(name, save({"kinds": np.array(costs.kinds), "table": costs.table}), "edges")
    return costs


@contextlib.contextmanager
def _watching(pipe: Any, recorder: EdgeCostRecorder) -> Iterator[None]:
    """Feed the recorder once per step of the scheduler; of several network calls in a step, with the last one."""
    adapter = find_adapter(pipe)
    denoiser = adapter.denoiser_of(pipe)
    span = adapter.list_spans(denoiser)[FINAL]
    image = span.streams.index("hidden_states")
    latest: list[torch.Tensor] = []

    def note(module: Any, args: Any, result: Any) -> None:
        latest[:] = [result if isinstance(result, torch.Tensor) else result[image]]

    step = pipe.scheduler.step

    @functools.wraps(step)
    def recording(*args: Any, **kwargs: Any) -> Any:
        recorder.feed(latest[0])
        return step(*args, **kwargs)

    overrides = Overrides()
    handle = denoiser.get_submodule(span.modules[-1]).register_forward_hook(note)
    overrides.set(pipe.scheduler, "step", recording)
    try:
        yield
    finally:
        overrides.undo()
        handle.remove()
