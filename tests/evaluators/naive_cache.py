"""The plainest execution of a cache plan, to compare the runtime with."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_action import CacheAction, forecast_weights
from autotune.spaces.cache_plan import CachePlan

from .mini_pipelines import denoiser_of


def copied(value: Any) -> Any:
    if value is None:
        return None
    return value.clone() if isinstance(value, torch.Tensor) else type(value)(copied(x) for x in value)


def combined(values: list[Any], weights: tuple[float, ...]) -> Any:
    """The weighted sum, made in float64; a single value as it is."""
    if len(weights) == 1:
        return copied(values[0])
    if isinstance(values[0], torch.Tensor):
        return sum(w * v.double() for w, v in zip(weights, values, strict=True)).to(values[0].dtype)
    return type(values[0])(combined(list(items), weights) for items in zip(*values, strict=True))


def halves(value: Any, part: int) -> Any:
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return value.chunk(2)[part]
    return type(value)(halves(x, part) for x in value)


def joined(u: Any, c: Any) -> Any:
    if c is None:
        return None
    return torch.cat([u, c]) if isinstance(c, torch.Tensor) else type(c)(joined(*pair) for pair in zip(u, c))  # noqa: B905


class Naive:
    """Executes a plan by keeping a copy of every value, and skipping nothing.

    Values are kept per call of a row and, if `dropped` is given, per guidance branch. Rows come from counting the
    denoiser's calls, `calls_per_row` to a row.
    """

    def __init__(self, pipe: Any, plan: CachePlan, dropped: tuple[bool, ...] = (), calls_per_row: int = 1) -> None:
        self.denoiser, self.plan, self.calls_per_row = denoiser_of(pipe), plan, calls_per_row
        self.dropped = dropped
        self.values: dict[Any, list[tuple[int, Any]]] = {}
        self.n = -1
        self.came_in: dict[int, list[torch.Tensor]] = {}
        self.sites = list_inventory(pipe).sites
        self.spans = find_adapter(pipe).list_spans(self.denoiser)

    def __enter__(self) -> None:
        self.hook = self.denoiser.register_forward_pre_hook(lambda *_: setattr(self, "n", self.n + 1))
        for i, site in reversed(list(enumerate(self.sites))):
            span = self.spans.get(site.name)
            if span is None:
                module = self.denoiser.get_submodule(site.name)
                module.forward = self.gate(i, module.forward)
                continue
            for path in span.modules:
                module = self.denoiser.get_submodule(path)
                module.forward = self.span_gate(i, span, path, module, module.forward)

    def __exit__(self, *_: object) -> None:
        self.hook.remove()
        for module in self.denoiser.modules():
            vars(module).pop("forward", None)

    def branches(self, i: int) -> tuple[int, list[Any]]:
        """Row, and a key per guidance branch of this call."""
        row, call = divmod(self.n, self.calls_per_row)
        branches = [0, 1] if self.dropped and not self.dropped[row] else [1]
        return row, [(call, i, branch) for branch in branches]

    def computes(self, i: int) -> bool:
        row = self.n // self.calls_per_row
        return row == 0 or bool(self.plan.table[row, i] == CacheAction.RECOMPUTE)

    def store(self, i: int, value: Any) -> None:
        row, keys = self.branches(i)
        parts = [value] if len(keys) == 1 else [halves(value, 0), halves(value, 1)]
        for key, part in zip(keys, parts, strict=True):
            self.values.setdefault(key, []).insert(0, (row, copied(part)))

    def stored(self, i: int) -> Any:
        row, keys = self.branches(i)
        action = CacheAction(self.plan.table[row, i])
        parts = []
        for key in keys:
            stored = self.values[key][: action.order + 1]
            weights = forecast_weights(action, [made for made, _ in stored], row)
            parts.append(combined([value for _, value in stored[: len(weights)]], weights))
        return parts[0] if len(parts) == 1 else joined(*parts)

    def gate(self, i: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self.computes(i):
                return self.stored(i)
            value = original(*args, **kwargs)
            self.store(i, value)
            return value

        return forward

    def span_gate(self, i: int, span: Any, path: str, module: Any, original: Any) -> Callable[..., Any]:
        signature = inspect.signature(type(module).forward)

        def forward(*args: Any, **kwargs: Any) -> Any:
            arguments = signature.bind(module, *args, **kwargs).arguments
            streams = [arguments[name] for name in span.streams]
            if path == span.modules[0]:
                self.came_in[i] = [copied(x) for x in streams]
            if self.computes(i):
                value = original(*args, **kwargs)
                if path == span.modules[-1]:
                    self.store(i, self.shifted(span, i, value, -1) if span.residual else value)
                return value
            if path == span.modules[-1]:
                return self.shifted(span, i, self.stored(i), 1) if span.residual else self.stored(i)
            return span.skip(module, tuple(streams))

        return forward

    def shifted(self, span: Any, i: int, value: Any, sign: int) -> Any:
        if len(span.streams) == 1:
            return value + sign * self.came_in[i][0]
        pairs = zip(value, self.came_in[i], strict=True)
        return tuple(None if v is None else v + sign * x for v, x in pairs)
