"""What stands in front of a module: it decides in plain Python, also where `torch.compile` is at work.

A module can be compiled in two ways. `module.compile()` and diffusers' `compile_repeated_blocks()` set the attribute
`_compiled_call_impl`, which is then called in place of `forward`; `torch.compile(module)` is another module around it.
A gate replaces whatever would be called, so it stands outside the graphs of its own module. Inside a graph of a module
further up it is a graph break: the graphs hold the network's own computations only, and no decision of a schedule.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from autotune.evaluators.override import Overrides

Function = TypeVar("Function", bound=Callable[..., Any])

Before = Callable[[int, tuple[Any, ...], dict[str, Any]], Any]
"""(cell, positional and keyword arguments) -> what to hand out in place of calling the module, or None to call it."""

After = Callable[[int, Any], None]
"""Told (cell, result) after a call of the module."""

COMPILED = "_compiled_call_impl"
"""Where `module.compile()` puts what is called in place of `forward`."""

_REMEDY = (
    "an applied schedule decides here whether a module runs, so no graph may span it: compile without fullgraph=True, "
    "or compile what it decides on with autotune.compile_leaves(pipe)"
)


class Gate:
    """Calls a module's `original`, or hands out another value; `cells[site]` says what to do, 0 just to call.

    An object and not a function, since `torch.compile` guards on the identity of functions: with them the graphs of
    one block could not serve the next.
    """

    def __init__(
        self, original: Callable[..., Any], cells: bytearray, site: int, *, before: Before, after: After
    ) -> None:
        functools.update_wrapper(self, original, updated=())
        self._original, self._cells, self._site = original, cells, site
        self._before, self._after = in_python(before), in_python(after)

    @torch.compiler.disable(recursive=False, reason=_REMEDY)  # type: ignore[no-untyped-call, untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value of this call; what is called inside may be compiled."""
        cell = self._cells[self._site]
        if not cell:
            return self._original(*args, **kwargs)
        value = self._before(cell, args, kwargs)
        if value is None:
            value = self._original(*args, **kwargs)
            self._after(cell, value)
        return value


def in_python(function: Function) -> Function:
    """The function, which `torch.compile` will not look into; what is compiled on its own still runs compiled."""
    eager: Function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return eager


def override_call(
    module: torch.nn.Module, overrides: Overrides, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Put what `make` builds around the module's call in its place, in plain Python."""
    entry = entry_name(module)
    overrides.set(module, entry, in_python(make(getattr(module, entry))))


def entry_name(module: torch.nn.Module) -> str:
    """The attribute that a call of the module ends in."""
    return "forward" if module._compiled_call_impl is None else COMPILED


def uncompiled(module: Any) -> Any:
    """The module itself, where `torch.compile(module)` has put another around it."""
    return getattr(module, "_orig_mod", module)
