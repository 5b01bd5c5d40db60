"""diffusers' own caches, enabled and disabled through diffusers, with what they compute counted."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import diffusers
import numpy as np
import torch

from autotune.evaluators.gate import override_call
from autotune.evaluators.override import Overrides
from autotune.evaluators.policy_runtime import PolicyRuntime
from autotune.spaces.cache_policy import CachePolicy, PolicyKind
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.inventory import Inventory

_ABSENT = object()
_LEFT_BEHIND = ("forward", "_diffusers_hook", "_cache_config")
"""Attributes that diffusers sets on modules and does not take back."""

_ATTENTION = r".*blocks\..*attn\d?"
"""What TaylorSeer forecasts: attention, as its own patterns say, which miss the numbered ones of Wan."""


class DiffusersCache(PolicyRuntime):
    """Enables one cache of diffusers; each call runs in a cache context of its own ordinal.

    Pipelines open a context in some places only, and reset the caches only where a run ends well; both are done here.
    PAB and FasterCache look at no context, so each call is given a state of its own.
    """

    def __init__(
        self, policy: CachePolicy, inventory: Inventory, denoiser: Any, replaced: PolicyRuntime | None = None
    ) -> None:
        """Prepare a policy; `replaced` is the one that is on the denoiser now and will be taken off.

        Raises:
            ScheduleMismatchError: diffusers can't enable caches on this denoiser, or another one is enabled.
        """
        super().__init__(inventory)
        self._denoiser: Any = denoiser
        if not isinstance(denoiser, diffusers.CacheMixin):
            raise ScheduleMismatchError(
                f"diffusers can enable caches on denoisers with its CacheMixin; {type(denoiser).__name__} has none; "
                "use a policy that does not begin with diffusers-"
            )
        if self._denoiser.is_cache_enabled and not isinstance(replaced, DiffusersCache):
            raise ScheduleMismatchError(
                "a policy needs a denoiser without another cache; diffusers has enabled one; call disable_cache() first"
            )
        self._policy = policy
        self._before: list[tuple[torch.nn.Module, dict[str, Any]]] = []
        self._enabled = False
        self._hooks: list[Any] = []
        """diffusers' hooks that keep one state whatever the context."""
        self._states: dict[int, list[Any]] = {}
        """Their states by the ordinal of the call."""
        self._timestep = 0.0
        self._own_macs = inventory.tree.own_macs
        self._ran = np.zeros(len(inventory), np.int64)

    def install(self, denoiser: Any, overrides: Overrides) -> None:
        """Count the sites' runs, and enable the cache around that."""
        for i, site in enumerate(self._inventory.sites):
            if site.name != site.component:  # the stack and the hidden state are no modules
                module = denoiser.get_submodule(site.name)
                override_call(module, overrides, functools.partial(self._counted, i))
        self._before = [(m, {a: vars(m).get(a, _ABSENT) for a in _LEFT_BEHIND}) for m in denoiser.modules()]
        self._enabled = True
        overrides.on_undo(self._disable)
        denoiser.enable_cache(self._config())
        registries = [vars(m)["_diffusers_hook"] for m in denoiser.modules() if "_diffusers_hook" in vars(m)]
        self._hooks = [hook for registry in registries for hook in registry.hooks.values() if hasattr(hook, "state")]

    def _disable(self) -> None:
        """Disable the cache, and take away what diffusers leaves on the modules."""
        self._enabled = False
        if self._denoiser.is_cache_enabled:
            self._denoiser.disable_cache()
        for module, attributes in self._before:
            for name, value in attributes.items():
                if value is _ABSENT:
                    vars(module).pop(name, None)
                else:
                    setattr(module, name, value)
        self._before = []

    def reset(self) -> None:
        """Make diffusers forget."""
        self._states.clear()
        if self._enabled:
            self._denoiser._reset_stateful_cache()

    def run(self, original: Callable[..., Any], args: Any, kwargs: Any, *, row: int, call: int, batch: int) -> Any:
        """Run the denoiser in a cache context."""
        self._timestep = self._timesteps[row]
        self._ran[:] = 0
        states = self._states.setdefault(call, [type(hook.state)() for hook in self._hooks])
        for hook, state in zip(self._hooks, states, strict=True):
            hook.state = state
        with self._denoiser.cache_context(str(call)):
            output = original(*args, **kwargs)
        macs = self._inventory.total_macs - int(self._own_macs.sum()) + int(self._ran @ self._own_macs)
        around = [i for i, site in enumerate(self._inventory.sites) if site.name == site.component]
        macs += int(self._own_macs[around].sum())
        self._count(call=call, batch=batch, macs=macs, computed=bool(self._ran[-1]))
        return output

    def _counted(self, site: int, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            self._ran[site] += 1
            return original(*args, **kwargs)

        return forward

    def _config(self) -> Any:
        policy, made_by = self._policy, cast(Any, diffusers)  # its configurations are not typed
        match policy.kind:
            case PolicyKind.DIFFUSERS_FIRST_BLOCK:
                return made_by.FirstBlockCacheConfig(threshold=policy.threshold)
            case PolicyKind.DIFFUSERS_TAYLORSEER:
                return made_by.TaylorSeerCacheConfig(
                    cache_interval=policy.interval,
                    disable_cache_before_step=policy.warm_up,
                    max_order=policy.order,
                    cache_identifiers=[_ATTENTION],
                    taylor_factors_dtype=self._denoiser.dtype,
                )
            case PolicyKind.DIFFUSERS_MAGCACHE:
                return made_by.MagCacheConfig(
                    threshold=policy.threshold,
                    max_skip_steps=policy.max_skips,
                    retention_ratio=policy.warm_up / len(policy.ratios),
                    num_inference_steps=len(policy.ratios),
                    mag_ratios=list(policy.ratios),
                )
            case PolicyKind.DIFFUSERS_PAB:
                return made_by.PyramidAttentionBroadcastConfig(
                    spatial_attention_block_skip_range=policy.interval,
                    cross_attention_block_skip_range=policy.interval,
                    spatial_attention_timestep_skip_range=policy.window,
                    cross_attention_timestep_skip_range=policy.window,
                    current_timestep_callback=self._current_timestep,
                )
            case _:
                return made_by.FasterCacheConfig(
                    spatial_attention_block_skip_range=policy.interval,
                    spatial_attention_timestep_skip_range=policy.window,
                    attention_weight_callback=lambda module: 0.5,
                    is_guidance_distilled=True,  # batched guidance is not among the denoisers with a CacheMixin
                    current_timestep_callback=self._current_timestep,
                )

    def _current_timestep(self) -> float:
        return self._timestep

    def begin(self, timesteps: Sequence[float]) -> None:
        """Begin a run: FasterCache can't begin inside its window, where it has nothing to reuse.

        Raises:
            ScheduleMismatchError: the first timestep lies inside the window.
        """
        super().begin(timesteps)
        low, high = self._policy.window
        if self._policy.kind is PolicyKind.DIFFUSERS_FASTERCACHE and low < timesteps[0] < high:
            raise ScheduleMismatchError(
                f"policy.window of diffusers-fastercache must lie below the first timestep, {timesteps[0]:g}; "
                f"got {high:g}"
            )
