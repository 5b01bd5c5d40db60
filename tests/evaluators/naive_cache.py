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
    if len(weights) == 1 or values[0] is None:
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

    Values are kept per call of a row and, if `dropped` is given, per guidance branch; an `unconditional` plan is that
    of the first half of a batch, or of the second call of a row. Rows come from counting the denoiser's calls,
    `calls_per_row` to a row. Batches are computed whole; what a branch does not ask for is thrown away.
    """

    def __init__(
        self,
        pipe: Any,
        plan: CachePlan,
        dropped: tuple[bool, ...] = (),
        calls_per_row: int = 1,
        unconditional: CachePlan | None = None,
    ) -> None:
        self.denoiser, self.calls_per_row = denoiser_of(pipe), calls_per_row
        self.plans = (unconditional or plan, plan)
        self.dropped = dropped
        self.active = {0, 1}
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

    @property
    def row(self) -> int:
        return self.n // self.calls_per_row

    def branches(self) -> list[int]:
        """Those of this call, in the order of the batch: 0 is the unconditional one."""
        if self.calls_per_row > 1:
            return [1 - self.n % self.calls_per_row]
        return [0, 1] if self.dropped and not self.dropped[self.row] else [1]

    def fresh(self, i: int) -> set[int]:
        """The branches that compute, of those that ask."""
        asking = self.active & set(self.branches())
        return {b for b in asking if self.row == 0 or self.plans[b].table[self.row, i] == CacheAction.RECOMPUTE}

    def taken(self, i: int, value: Any, fresh: set[int]) -> Any:
        """The value, of which the fresh branches are stored, and the others come from what is stored."""
        branches = self.branches()
        parts = []
        for k, branch in enumerate(branches):
            part = value if value is None or len(branches) == 1 else halves(value, k)
            if branch in fresh:
                self.values.setdefault((i, branch), []).insert(0, (self.row, copied(part)))
            elif branch in self.active:
                part = self.stored(i, branch)
            parts.append(part)
        if value is None and not set(branches) <= self.active:  # anything will do where nobody asks
            parts = [copied(parts[max(self.active)])] * len(parts) if len(parts) > 1 else parts
        return parts[0] if len(parts) == 1 else joined(*parts)

    def stored(self, i: int, branch: int) -> Any:
        action = CacheAction(self.plans[branch].table[self.row, i])
        stored = self.values[i, branch][: action.order + 1]
        weights = forecast_weights(action, [made for made, _ in stored], self.row)
        return combined([value for _, value in stored[: len(weights)]], weights)

    def computed(self, fresh: set[int], original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a module returns, within which these branches ask alone."""
        before, self.active = self.active, fresh
        try:
            return original(*args, **kwargs)
        finally:
            self.active = before

    def gate(self, i: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            fresh = self.fresh(i)
            return self.taken(i, self.computed(fresh, original, *args, **kwargs) if fresh else None, fresh)

        return forward

    def span_gate(self, i: int, span: Any, path: str, module: Any, original: Any) -> Callable[..., Any]:
        signature = inspect.signature(type(module).forward)

        def forward(*args: Any, **kwargs: Any) -> Any:
            arguments = signature.bind(module, *args, **kwargs).arguments
            streams = [arguments[name] for name in span.streams]
            if path == span.modules[0]:
                self.came_in[i] = [copied(x) for x in streams]
            fresh, is_last = self.fresh(i), path == span.modules[-1]
            if fresh:
                value = self.computed(fresh, original, *args, **kwargs)
                if not is_last:
                    return value
                taken = self.taken(i, self.shifted(span, i, value, -1) if span.residual else value, fresh)
                if set(self.branches()) <= fresh or not span.residual:  # no bit is lost by adding what was taken off
                    return taken if not span.residual else value
                result = self.shifted(span, i, taken, 1)
                return joined(*(halves(value if b in fresh else result, b) for b in (0, 1)))
            if is_last:
                value = self.taken(i, None, fresh)
                return self.shifted(span, i, value, 1) if span.residual else value
            return span.skip(module, tuple(streams))

        return forward

    def shifted(self, span: Any, i: int, value: Any, sign: int) -> Any:
        if len(span.streams) == 1:
            return value + sign * self.came_in[i][0]
        pairs = zip(value, self.came_in[i], strict=True)
        return tuple(None if v is None else v + sign * x for v, x in pairs)
