"""Norms in front of cached leaves: where every leaf that reads one is handed out, it need not look at all tokens."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from autotune.evaluators.gate import COMPILED, entry_name, uncompiled
from autotune.evaluators.override import Overrides


class NormGate:
    """Calls a norm, or gives its first token where nobody reads the result.

    What follows a norm (a scale and a shift per sample) then works on one token too, and hands it to leaves whose gates
    do not look at it.
    """

    def __init__(self, original: Callable[..., Any], is_idle: Callable[[], bool]) -> None:
        functools.update_wrapper(self, original, updated=())
        self._original, self._is_idle = original, is_idle

    def __call__(self, tokens: torch.Tensor) -> Any:
        """The norm of tokens (n, tokens, channels)."""
        if self._is_idle():
            return tokens[:, :1]
        return self._original(tokens)


def install_norm_gates(
    denoiser: Any,
    overrides: Overrides,
    norms: Mapping[str, Sequence[str]],
    gated: Mapping[str, int],
    hands_out: Callable[[int], bool],
) -> None:
    """Set a gate on each norm all of whose readers are gated, unless it is part of a graph, and of a larger kernel.

    Args:
        denoiser: what holds the norms.
        overrides: takes the gates off again.
        norms: names of the leaves that read it, by path of the norm.
        gated: number of a site, by name.
        hands_out: whether a site will be handed out in this call.
    """
    for path, readers in norms.items():
        if all(name in gated for name in readers) and not _is_compiled_around(denoiser, path):
            sites = [gated[name] for name in readers]
            norm = denoiser.get_submodule(path)
            entry = entry_name(norm)
            overrides.set(norm, entry, NormGate(getattr(norm, entry), functools.partial(_all, hands_out, sites)))


def _is_compiled_around(denoiser: Any, path: str) -> bool:
    parts = path.split(".")
    around = [denoiser.get_submodule(".".join(parts[:n])) for n in range(len(parts))]
    return any(uncompiled(module) is not module or entry_name(module) == COMPILED for module in around)


def _all(hands_out: Callable[[int], bool], sites: Sequence[int]) -> bool:
    return all(hands_out(site) for site in sites)
