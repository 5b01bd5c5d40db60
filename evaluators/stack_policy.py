"""TeaCache, first-block and MagCache: rules that reuse what the stack of blocks adds, decided at its entry."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from autotune.evaluators.branch_store import Value
from autotune.evaluators.gate import override_call
from autotune.evaluators.override import Overrides
from autotune.evaluators.policy_runtime import PolicyRuntime
from autotune.evaluators.span import Span, Streams
from autotune.spaces.cache_policy import CachePolicy, PolicyKind
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.inventory import FINAL, STACK, Inventory
from autotune.spaces.skip_rule import SkipRule, make_rule


@dataclass(slots=True)
class _State:
    """What is kept between the calls of one ordinal: the rule, what it compares with, and what a skip hands out."""

    rule: SkipRule
    before: torch.Tensor | None = None
    value: Value | None = None
    inputs: Streams = field(default=())
    skipping: bool = False


class _Skipped(Exception):
    """Leaves the first block at its modulated input."""


class StackPolicy(PolicyRuntime):
    """Skips the stack of blocks and adds its last residual; of a UNet, whose shapes change, it hands out the output.

    The first-block rule always runs the first block, or a UNet's first stage, and reuses the rest.
    """

    def __init__(self, policy: CachePolicy, inventory: Inventory, spans: Mapping[str, Span]) -> None:
        """Prepare a policy.

        Raises:
            ScheduleMismatchError: the denoiser has no attention in its first block whose input TeaCache could look at.
        """
        super().__init__(inventory)
        self._policy = policy
        whole = spans[STACK] if STACK in spans else spans[FINAL]
        self._probe = whole.modules[0]
        probes = policy.kind is PolicyKind.FIRST_BLOCK
        self._span = replace(whole, modules=whole.modules[1:]) if probes else whole
        self._image = whole.streams.index("hidden_states")
        self._attention = modulated_leaf(inventory, spans) if policy.kind is PolicyKind.TEACACHE else None
        macs = {site.name: site.macs for site in inventory.sites}
        self._skipped_macs = sum(macs[path] for path in self._span.modules)
        self._states: dict[int, _State] = {}
        self._state: _State | None = None
        self._row = 0

    def install(self, denoiser: Any, overrides: Overrides) -> None:
        """Set the gates on the blocks, and on what the rule looks at."""
        for path in self._span.modules:
            module = denoiser.get_submodule(path)
            override_call(module, overrides, functools.partial(self._gate, path, module))
        if self._policy.kind is PolicyKind.FIRST_BLOCK:
            module = denoiser.get_submodule(self._probe)
            override_call(module, overrides, functools.partial(self._first_block, module))
        if self._attention is not None:
            module = denoiser.get_submodule(self._attention)
            override_call(module, overrides, self._modulated)

    def reset(self) -> None:
        """Forget residuals and what has been accumulated."""
        self._states.clear()
        self._state = None

    def leave(self) -> None:
        """Make the gates transparent."""
        if self._state is not None:
            self._state.inputs = ()
        self._state = None

    def run(self, original: Callable[..., Any], args: Any, kwargs: Any, *, row: int, call: int, batch: int) -> Any:
        """Run the denoiser, whose gates decide."""
        if call not in self._states:
            self._states[call] = _State(make_rule(self._policy, len(self._timesteps)))
        self._state, self._row = self._states[call], row
        self._state.skipping = False
        output = original(*args, **kwargs)
        skipped = self._state.skipping
        macs = self._inventory.total_macs - (self._skipped_macs if skipped else 0)
        self._count(call=call, batch=batch, macs=macs, computed=not skipped)
        return output

    def _decide(self, state: _State, seen: torch.Tensor | None) -> None:
        change = None
        if seen is not None and state.before is not None and state.before.shape == seen.shape:
            change = relative_change(seen, state.before)
        state.skipping = state.rule.skips(self._row, change) and state.value is not None
        if self._policy.kind is not PolicyKind.FIRST_BLOCK or not state.skipping:  # FBCache compares with the last kept
            state.before = seen

    def _gate(self, path: str, module: Any, original: Callable[..., Value]) -> Callable[..., Value]:
        span = self._span
        inputs_of = span.inputs_of(module)
        is_first, is_last = path == span.modules[0], path == span.modules[-1]

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Value:
            state = self._state
            if state is None:
                return original(*args, **kwargs)
            if is_first:
                state.inputs = inputs_of(args, kwargs)
                if self._policy.kind is PolicyKind.MAGCACHE:
                    self._decide(state, None)
            if not state.skipping:
                try:
                    result = original(*args, **kwargs)
                except _Skipped:
                    pass
                else:
                    if is_last:
                        state.value = span.stored_form(result, state.inputs)
                    return result
            if is_last:
                assert state.value is not None
                return span.result_of(state.value, state.inputs)
            return span.skip(module, inputs_of(args, kwargs))

        return forward

    def _first_block(self, module: Any, original: Callable[..., Value]) -> Callable[..., Value]:
        """The first block, which always runs: what it adds decides on the others."""
        inputs_of = self._span.inputs_of(module)

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Value:
            result = original(*args, **kwargs)
            if self._state is not None:
                given = inputs_of(args, kwargs)[self._image]
                made = result if isinstance(result, torch.Tensor) else result[self._image]
                assert made is not None
                self._decide(self._state, made if given is None or made.shape != given.shape else made - given)
            return result

        return forward

    def _modulated(self, original: Callable[..., Value]) -> Callable[..., Value]:
        """The first block's attention, whose input is what TeaCache looks at."""

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Value:
            if self._state is not None:
                self._decide(self._state, attention_input(args, kwargs))
                if self._state.skipping:
                    raise _Skipped
            return original(*args, **kwargs)

        return forward


def modulated_leaf(inventory: Inventory, spans: Mapping[str, Span]) -> str:
    """Path of the first block's first attention, which is called with the block's modulated input.

    Raises:
        ScheduleMismatchError: the denoiser is no stack of blocks.
    """
    if STACK not in spans:
        raise ScheduleMismatchError(
            f"TeaCache needs blocks whose input is modulated; a {inventory.denoiser_class} has none; use the "
            "first-block policy"
        )
    first = spans[STACK].modules[0]
    return next(site.name for site in inventory.sites if site.block == first and "attn" in site.component)


def attention_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states that an attention is called with."""
    found = args[0] if args else kwargs["hidden_states"]
    assert isinstance(found, torch.Tensor)
    return found


def relative_change(now: torch.Tensor, before: torch.Tensor) -> float:
    """Mean |now - before| / mean |before|; it waits for the device."""
    return float((now - before).abs().mean() / before.abs().mean())
