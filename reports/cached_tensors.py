"""Values of modules, and the two halves of a guided batch: functions that `cached_pipeline.py` and its scripts need."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any


def map_tensors(change: Callable[..., Any], value: Any, *others: Any) -> Any:
    """What a module returned, a tensor or nested tuples of them, with each tensor changed, together with others."""
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(change, *items) for items in zip(value, *others, strict=True))
    return change(value, *others) if hasattr(value, "detach") else value


def weighted_sum(values: Sequence[Any], weights: Sequence[float]) -> Any:
    """The sum of weighted values, made in float32 where they are narrower; a single value of weight 1 is itself."""
    if tuple(weights) == (1.0,):
        return values[0]

    def add(first: Any, *others: Any) -> Any:
        total = (first.float() if first.element_size() < 4 else first) * weights[0]
        for other, weight in zip(others, weights[1:], strict=True):
            total.add_(other, alpha=weight)
        return total.to(first.dtype)

    return map_tensors(add, *values)


def plus(value: Any, streams: Sequence[Any], factor: float) -> Any:
    """The value of a span with its inputs added or taken away; SD3's last block returns None for the text."""
    if not isinstance(value, tuple | list):
        return value + streams[0] if factor > 0 else value - streams[0]
    return tuple(v if v is None or s is None else plus(v, (s,), factor) for v, s in zip(value, streams, strict=True))


def halves(x: Any) -> tuple[Any, Any]:
    """The unconditional and the conditional half of a batch."""
    return x[: x.shape[0] // 2], x[x.shape[0] // 2 :]


def join(parts: Sequence[Any]) -> Any:
    """One batch of two halves."""

    def cat(first: Any, second: Any) -> Any:
        both = first.new_empty((first.shape[0] + second.shape[0], *first.shape[1:]))
        both[: first.shape[0]], both[first.shape[0] :] = first, second
        return both

    return map_tensors(cat, *parts)


def conditional_half(value: Any, batch: int) -> Any:
    """Arguments of the denoiser with every tensor that has the batch as its first axis cut to the second half."""
    if isinstance(value, dict):
        return {key: conditional_half(item, batch) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(conditional_half(item, batch) for item in value)
    is_batch = hasattr(value, "detach") and value.ndim > 0 and value.shape[0] == batch
    return halves(value)[1] if is_batch else value


def prediction(output: Any) -> Any:
    """The tensor in a denoiser's output: a tuple's first item, or the field `sample`."""
    return output[0] if isinstance(output, tuple) else output.sample


def replace_prediction(output: Any, tensor: Any) -> Any:
    """The output with another prediction."""
    return (tensor, *output[1:]) if isinstance(output, tuple) else dataclasses.replace(output, sample=tensor)
