"""Guidance that is stronger or weaker from call to call: the column `solver`'s `guidance_gain`."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from autotune.evaluators.branch_store import first_half, second_half
from autotune.evaluators.guidance import output_tensor, replace_tensor

Gains: TypeAlias = Sequence[float] | torch.Tensor


class GuidanceGain:
    """Multiplies the difference of the branches, which each row has a factor for, before the pipeline sees them.

    The unconditional output u becomes c + gain (u - c), so that the pipeline's own formula, with the scale s, comes to
    that of the scale 1 + gain (s - 1). The branches are the halves of one batch, [unconditional; conditional], or with
    `separate` two calls of a step, the conditional one first.
    """

    def __init__(self, gains: Gains, *, separate: bool) -> None:
        self._gains, self._separate = gains, separate
        self._conditional: torch.Tensor | None = None
        """The first call's output, until the second one."""

    def reset(self) -> None:
        """Forget the output of the conditional branch."""
        self._conditional = None

    def apply(self, output: Any, row: int, call: int) -> Any:
        """What the pipeline gets in place of the output of the `call`-th call of this row."""
        gain = self._gains[row]
        if not isinstance(gain, torch.Tensor) and gain == 1.0:
            return output
        tensor = output_tensor(output)
        if not self._separate:
            unconditional, conditional = first_half(tensor), second_half(tensor)
            return replace_tensor(output, torch.cat([_amplified(unconditional, conditional, gain), conditional]))
        kept, self._conditional = self._conditional, tensor if call == 0 else None
        return output if call == 0 or kept is None else replace_tensor(output, _amplified(tensor, kept, gain))


def _amplified(unconditional: torch.Tensor, conditional: torch.Tensor, gain: float | torch.Tensor) -> torch.Tensor:
    return (conditional + gain * (unconditional - conditional)).to(conditional.dtype)
