"""The plainest execution of a cache plan, to compare the runtime with."""

from collections.abc import Callable
from typing import Any

import torch

from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_action import CacheAction, forecast_weights
from autotune.spaces.cache_plan import CachePlan

from .mini_pipelines import denoiser_of


def copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else type(value)(copied(x) for x in value)


def combined(values: list[Any], weights: tuple[float, ...]) -> Any:
    """The weighted sum, made in float64; a single value as it is."""
    if len(weights) == 1:
        return copied(values[0])
    if isinstance(values[0], torch.Tensor):
        return sum(w * v.double() for w, v in zip(weights, values, strict=True)).to(values[0].dtype)
    return type(values[0])(combined(list(items), weights) for items in zip(*values, strict=True))


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
        self.values: dict[Any, list[tuple[int, Any]]] = {}
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
            action = CacheAction(self.plan.table[row, i])
            if row == 0 or action is CacheAction.RECOMPUTE:
                value = original(*args, **kwargs)
                parts = [value] if len(keys) == 1 else [halves(value, 0), halves(value, 1)]
                for key, part in zip(keys, parts, strict=True):
                    self.values.setdefault(key, []).insert(0, (row, copied(part)))
                return value
            parts = []
            for key in keys:
                stored = self.values[key][: action.order + 1]
                weights = forecast_weights(action, [made for made, _ in stored], row)
                parts.append(combined([value for _, value in stored[: len(weights)]], weights))
            return parts[0] if len(parts) == 1 else joined(*parts)

        return forward
