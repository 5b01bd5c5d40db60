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
from autotune.evaluators.edge_costs import Array, EdgeCostRecorder
from autotune.evaluators.guidance_recording import DifferenceRecorder
from autotune.evaluators.leaf_errors import LeafErrorRecorder
from autotune.evaluators.policy_calibration import CalibrationRecorder
from autotune.evaluators.reference import ArtifactCache
from autotune.evaluators.step_hook import before_each_step, hooked
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.edge_costs import N_REPLAYS, EdgeCosts, EdgeSource, replayed_calls
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import FINAL, Inventory
from autotune.spaces.policy_calibration import PolicyCalibration
from autotune.spaces.schedule import Schedule

LEAF_GAP = 3
"""Calls over which errors of leaves are recorded: SmoothCache's lookahead."""

N_EDGES = 256
"""Runs in which one edge alone is approximated, at most."""

VERSION = 3
"""Of what is recorded, and of which elements."""

_LEAF = "leaf."

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
    source: EdgeSource = "hybrid",
) -> EdgeCosts:
    """Edge costs of the hidden state after the last block, and what else planners read, back from a file if known.

    The error of a call is what its approximation changes in the hidden state, relative. Without more, plans spend their
    refreshes late, where the hidden state changes most, and lose to evenly spread ones. By default, it is multiplied
    by what it does to the final latents: in up to `N_REPLAYS` more runs one call alone reuses the hidden state of the
    one before, and the amplification is the relative change of the latents over that of the hidden state, between these
    calls interpolated in its logarithm. With the source "outcome" every edge is replayed so (LeMiCa), see `by_outcome`.

    Args:
        pipe: the pipeline.
        condition: what the runs are made under.
        fidelity: prompts and seeds of the runs.
        inventory: the sites.
        n_calls: rows of a default run.
        run: executes a schedule on the fidelity and gives the final latents (n, ...).
        artifacts: where costs are kept, as safetensors.
        source: what costs are made of.
    """
    name = f"edges/{VERSION}/{LONGEST}/{N_REPLAYS}/{LEAF_GAP}/{source}/{condition.hash}/{fidelity.hash}"
    stored = artifacts.load(name) if artifacts is not None else None
    if stored is not None:
        return _from_bytes(stored)
    costs = _measured(pipe, condition, inventory, n_calls, run, source)
    if artifacts is not None:
        artifacts.save(name, _to_bytes(costs), "edges")
    return costs


def _to_bytes(costs: EdgeCosts) -> bytes:
    arrays = {"kinds": np.array(costs.kinds), "table": costs.table}
    arrays |= {_LEAF + component: table for component, table in costs.leaf_errors.items()}
    if costs.calibration is not None:
        arrays["ratios"] = np.array(costs.calibration.ratios)
        arrays["polynomial"] = np.array(costs.calibration.polynomial, float)
    if costs.guidance_gram is not None:
        arrays["guidance_gram"] = costs.guidance_gram
    return save(arrays)


def _from_bytes(stored: bytes) -> EdgeCosts:
    data = load(stored)
    calibration = None
    if "ratios" in data:
        ratios, polynomial = tuple(data["ratios"].tolist()), tuple(data["polynomial"].tolist())
        calibration = PolicyCalibration(ratios=ratios, polynomial=polynomial)
    kinds = tuple(CacheAction(kind) for kind in data["kinds"].tolist())
    leaf_errors = {key.removeprefix(_LEAF): table for key, table in data.items() if key.startswith(_LEAF)}
    return EdgeCosts(
        kinds, data["table"], calibration=calibration, leaf_errors=leaf_errors, guidance_gram=data.get("guidance_gram")
    )


def _measured(
    pipe: Any,
    condition: Condition,
    inventory: Inventory,
    n_calls: int,
    run: Callable[[Schedule], torch.Tensor],
    source: EdgeSource,
) -> EdgeCosts:
    default = Schedule(n_steps=condition.n_steps)
    recorder = EdgeCostRecorder(n_calls, min(LONGEST, n_calls), KINDS)
    leaves = [inventory.sites[i] for i in inventory.leaves]
    leaf_recorder = LeafErrorRecorder(n_calls, LEAF_GAP, {site.name: site.component for site in leaves})
    calibration = CalibrationRecorder(pipe, inventory, n_calls)
    differences = _difference_recorder(pipe, condition, n_calls)
    with calibration.watching(), _watching(pipe, recorder, leaf_recorder), contextlib.ExitStack() as stack:
        if differences is not None:
            stack.enter_context(differences.watching())
        full = run(default)

    def change(first: int, last: int) -> float:
        """What it does to the latents to reuse the outermost sites in calls `first` to `last`."""
        table = np.zeros((n_calls, len(inventory)), np.uint8)
        table[first : last + 1, list(inventory.outermost)] = CacheAction.REUSE
        latents = run(replace(default, cache=CachePlan.from_array(table)))
        return float(((latents - full).flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1)).mean())

    if source == "hybrid":
        calls = replayed_calls(n_calls)
        errors = recorder.pairwise_errors()[np.array(calls) - 1, 1]
        ratios = _log_ratios(np.array([change(call, call) for call in calls]), errors)
        costs = recorder.edge_costs(np.exp(np.interp(np.arange(n_calls), calls, ratios)))
    else:
        costs = recorder.edge_costs()
    if source == "outcome":
        costs = by_outcome(costs, recorder.pairwise_errors(), change)
    gram = None if differences is None else differences.gram()
    return replace(costs, leaf_errors=leaf_recorder.errors(), calibration=calibration.result(), guidance_gram=gram)


def _difference_recorder(pipe: Any, condition: Condition, n_calls: int) -> DifferenceRecorder | None:
    """None where guidance has no two branches."""
    adapter = find_adapter(pipe)
    if adapter.guidance == "embedded" or condition.guidance_scale <= 1.0:
        return None
    return DifferenceRecorder(pipe, adapter.latent_shape(pipe, condition.height, condition.width)[1], n_calls)


def by_outcome(costs: EdgeCosts, pairwise: Array, change: Callable[[int, int], float]) -> EdgeCosts:
    """Costs that are scaled, edge by edge, so that a plain reuse costs what it does to the result.

    One replay for each first call and gap, up to `N_EDGES` in all, and between these calls interpolated; other kinds,
    and refreshes before, cost in proportion to their errors.

    Args:
        costs: of the feature.
        pairwise: E[t, k] of `EdgeCostRecorder.pairwise_errors`.
        change: relative change of the result if the calls from one to another reuse the value before them.
    """
    table, calls = costs.table.copy(), np.arange(costs.n_calls)
    for gap in range(2, costs.longest + 1):
        n_edges = costs.n_calls - gap + 1
        firsts = np.unique(
            np.linspace(0, n_edges - 1, min(n_edges, N_EDGES // (costs.longest - 1))).round().astype(int)
        )
        changes = np.array([change(j + 1, j + gap - 1) for j in firsts])
        ratios = _log_ratios(changes, pairwise[firsts, 1:gap].sum(axis=1))
        table[:, :, :, gap] *= np.exp(np.interp(calls, firsts, ratios))[:, None, None, None]
    return replace(costs, table=table)


def _log_ratios(changes: Array, errors: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 where nothing changed at all
        return np.nan_to_num(np.maximum(np.log(changes / errors), -50.0), nan=0.0, posinf=0.0)


@contextlib.contextmanager
def _watching(pipe: Any, recorder: EdgeCostRecorder, leaf_recorder: LeafErrorRecorder) -> Iterator[None]:
    """Feed a recorder once per step of the scheduler: of several network calls in a step with the last one."""
    adapter = find_adapter(pipe)
    denoiser = adapter.denoiser_of(pipe)
    span = adapter.list_spans(denoiser)[FINAL]
    image = span.streams.index("hidden_states")
    latest: list[torch.Tensor] = []

    def note(module: Any, args: Any, result: Any) -> None:
        latest[:] = [result if isinstance(result, torch.Tensor) else result[image]]

    def feed_recorders() -> None:
        recorder.feed(latest[0])
        leaf_recorder.advance()

    handles = [denoiser.get_submodule(span.modules[-1]).register_forward_hook(note)]
    for leaf in leaf_recorder.leaves:
        feed = functools.partial(_feed_leaf, leaf_recorder, leaf)
        handles.append(denoiser.get_submodule(leaf).register_forward_hook(feed))
    with hooked(handles), before_each_step(pipe.scheduler, feed_recorders):
        yield


def _feed_leaf(recorder: LeafErrorRecorder, leaf: str, module: Any, args: Any, result: Any) -> None:
    recorder.feed(leaf, result)
