"""The segment-cost job: the feature at the cache point, watched during default runs of the unmodified pipeline."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from safetensors.numpy import load, save

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.branch_store import Value, tensors_of
from autotune.evaluators.reference import ArtifactCache
from autotune.evaluators.segment_costs import SegmentCostRecorder
from autotune.evaluators.span import Span
from autotune.evaluators.step_hook import before_each_step, hooked
from autotune.spaces.cache_point import cache_point
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule
from autotune.spaces.segment_costs import COST_KEYS, SegmentCosts

LONGEST = 16
"""Calls from one refresh to the next, at most."""


def load_or_record_segments(
    pipe: Any,
    condition: Condition,
    fidelity: Fidelity,
    inventory: Inventory,
    n_calls: int,
    run: Callable[[Schedule], object],
    artifacts: ArtifactCache | None,
) -> SegmentCosts:
    """What reusing the feature at the cache point costs (`spaces/cache_point.py`), read back if known.

    The arguments are those of `load_or_record_branches`.

    Raises:
        EvaluatorError: a run has another number of calls.
        ScheduleError: the model has no cache point, a group norm straddles it, or the feature is not finite.
    """
    name = f"segments/{LONGEST}/{len(COST_KEYS)}/{condition.hash}/{fidelity.hash}"
    stored = artifacts.load(name) if artifacts is not None else None
    if stored is not None:
        return _from_bytes(stored, min(LONGEST, n_calls))
    axis = -1 if _spans_of(pipe, inventory) else 1
    recorder = SegmentCostRecorder(n_calls, min(LONGEST, n_calls), channel_axis=axis)
    with watching_cache_point(pipe, inventory, recorder.feed):
        run(Schedule(n_steps=condition.n_steps))
    costs = recorder.costs()
    if artifacts is not None:
        artifacts.save(name, save({"/".join(key): table for key, table in costs.tables.items()}), "segments")
    return costs


@contextlib.contextmanager
def watching_cache_point(
    pipe: Any, inventory: Inventory, feed: Callable[[tuple[torch.Tensor, ...]], None]
) -> Iterator[None]:
    """Feed with the tensors at the cache point, once per step: of several network calls in a step, the last one's."""
    denoiser, spans = find_adapter(pipe).denoiser_of(pipe), _spans_of(pipe, inventory)
    given: list[Any] = []
    latest: list[Value] = []
    handles = []
    if spans:
        span, entry = spans[-1], denoiser.get_submodule(spans[0].modules[0])
        inputs_of = spans[0].inputs_of(entry)

        def enter(module: Any, args: Any, kwargs: Any) -> None:
            given[:] = [inputs_of(args, kwargs)]

        def leave(module: Any, args: Any, result: Any) -> None:
            latest[:] = [span.stored_form(result, given[0])]

        handles.append(entry.register_forward_pre_hook(enter, with_kwargs=True))
        last = denoiser.get_submodule(span.modules[-1])
    else:
        last = _before_last_resnet(denoiser, inventory)

        def leave(module: Any, args: Any, result: Any) -> None:
            latest[:] = [result]

    handles.append(last.register_forward_hook(leave))
    with hooked(handles), before_each_step(pipe.scheduler, lambda: feed(tuple(tensors_of(latest[0])))):
        yield


def _spans_of(pipe: Any, inventory: Inventory) -> list[Span]:
    """The spans of the cache point's sites, in order; none of a UNet, whose point lies between two modules."""
    adapter = find_adapter(pipe)
    spans = adapter.list_spans(adapter.denoiser_of(pipe))
    names = [inventory.sites[i].name for i in cache_point(inventory)]
    return [spans[name] for name in names if name in spans]


def _before_last_resnet(denoiser: Any, inventory: Inventory) -> Any:
    """The module that makes what enters the last residual block of a UNet's last stage.

    That block normalises the feature beside the skip connection, which is fresh: a group of channels from both would
    make the skip connection's part depend on what is cached, and costs and corrections are of the feature alone.
    Other concatenations need no such rule: what is quantized of them is looked at behind the norm (`LossRecorder`).

    Raises:
        ScheduleError: a group of channels straddles both.
    """
    parent = inventory.sites[cache_point(inventory)[-1]].parent
    assert parent is not None
    stage = denoiser.get_submodule(inventory.sites[parent].name)
    n_cached, size = stage.resnets[-2].out_channels, stage.resnets[-1].in_channels // stage.resnets[-1].norm1.num_groups
    if n_cached % size:
        raise ScheduleError(
            f"the group norm behind a cache point must not mix the cached feature with the skip connection; "
            f"{inventory.sites[parent].name} has groups of {size} channels, and {n_cached} are cached: plan on the "
            "hidden state"
        )
    return (getattr(stage, "attentions", None) or stage.resnets)[len(stage.resnets) - 2]


def _from_bytes(stored: bytes, longest: int) -> SegmentCosts:
    data = load(stored)
    return SegmentCosts({key: data["/".join(key)] for key in COST_KEYS}, longest)
