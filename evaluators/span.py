"""Cached sites that are not one leaf: a block or a stack of blocks, as the residual that it adds or as its output."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from autotune.evaluators.branch_store import Value

Streams = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Modules that run one after the other in each network call, cached together.

    `modules` are paths inside the denoiser. `streams` are the arguments of their `forward` that hold what flows through
    them, in the order in which it is returned. What is stored is the last module's result, or with `residual` what the
    span adds to its input. While it is skipped, each module but the last hands on its input as `skip` says: by default
    the streams themselves.
    """

    modules: tuple[str, ...]
    streams: tuple[str, ...]
    residual: bool
    skip: "Callable[[Any, Streams], Value]" = lambda module, streams: streams if len(streams) > 1 else streams[0]

    def inputs_of(self, module: Any) -> Callable[[tuple[Any, ...], Mapping[str, Any]], Streams]:
        """A function that finds the streams among the arguments of a call of this module."""
        names = list(inspect.signature(type(module).forward).parameters)[1:]
        positions = [names.index(name) for name in self.streams]

        def find(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Streams:
            return tuple(
                args[position] if position < len(args) else kwargs[name]
                for name, position in zip(self.streams, positions, strict=True)
            )

        return find

    def stored_form(self, result: Value, inputs: Streams) -> Value:
        """What to store of a result."""
        return _changed(result, inputs, torch.sub) if self.residual else result

    def result_of(self, stored: Value, inputs: Streams) -> Value:
        """The result that a stored value stands for, at this call's input."""
        return _changed(stored, inputs, torch.add) if self.residual else stored


def _changed(value: Value, inputs: Streams, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Value:
    if isinstance(value, torch.Tensor):
        (given,) = inputs
        assert given is not None
        return change(value, given)
    pairs = zip(value, inputs, strict=True)  # SD3's last block returns None for the text
    return tuple(None if item is None or given is None else change(item, given) for item, given in pairs)
