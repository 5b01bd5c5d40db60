"""SADA: whole network calls skipped where the solver's states and slopes agree, the output estimated from the last."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from autotune.evaluators.branch_store import weighted_sum
from autotune.evaluators.guidance import output_tensor, replace_tensor
from autotune.evaluators.override import Overrides
from autotune.evaluators.policy_runtime import PolicyRuntime
from autotune.spaces.cache_policy import CachePolicy
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.inventory import Inventory
from autotune.spaces.noise_schedule import Flow, KnownNoise
from autotune.spaces.sada import RELEASED_STATE_WEIGHTS, adams_bashforth, figure_of, lagrange
from autotune.spaces.skip_rule import SkipRule, make_rule
from autotune.spaces.solver_formula import Prediction

_HISTORY = 4
"""Steps and outputs that are kept."""

_RELEASED_TERMS = 4
"""Data that the released code interpolates on SDXL; on FLUX, which it does not interpolate, it names three."""


class _Step(NamedTuple):
    """A step of the solver: the position (see `autotune.spaces.sada`), the scaled state there and the slope."""

    position: float
    state: torch.Tensor
    slope: torch.Tensor


class _Output(NamedTuple):
    """What a network call gave, and the scaled state that it was given."""

    position: float
    state: torch.Tensor | None
    output: Any


class SadaPolicy(PolicyRuntime):
    """Watches the scheduler's steps, so that it sees the guided slope; the branches are estimated alike."""

    def __init__(
        self,
        policy: CachePolicy,
        inventory: Inventory,
        noise: KnownNoise,
        prediction: Prediction,
        *,
        by_alpha: bool = False,
    ) -> None:
        """Prepare a policy; `by_alpha` says that the scheduler's samples are x / alpha (see `divides_by_alpha`).

        Raises:
            ScheduleMismatchError: the network's output is not the slope of an ODE in some position.
        """
        super().__init__(inventory)
        self._flow = isinstance(noise, Flow) and prediction == "velocity"
        if not self._flow and prediction != "noise":
            raise ScheduleMismatchError(
                f"SADA needs a network that predicts noise, or the velocity of a flow; this one predicts {prediction}; "
                "use another policy"
            )
        self._policy, self._noise = policy, noise
        self._is_scaled = self._flow or by_alpha
        self.reset()

    def install(self, denoiser: Any, overrides: Overrides) -> None:
        """Nothing inside the denoiser changes."""

    def begin(self, timesteps: Sequence[float]) -> None:
        """Begin a run: place its calls."""
        super().begin(timesteps)
        alpha, sigma = self._noise.alpha(timesteps), self._noise.sigma(timesteps)
        self._scales = [1.0] * len(timesteps) if self._is_scaled else alpha.tolist()
        self._positions = (sigma if self._flow else sigma / alpha).tolist()
        self._rule: SkipRule = make_rule(self._policy, len(timesteps))

    def reset(self) -> None:
        """Forget all steps and outputs."""
        self._steps: list[_Step] = []
        self._outputs: dict[int, list[_Output]] = {}
        self._state: torch.Tensor | None = None
        self._rule = make_rule(self._policy, 0)
        self._skips, self._row = False, 0

    def see_step(self, output: torch.Tensor, sample: torch.Tensor, result: Any) -> None:
        """Note a step, and the state that it leads to."""
        row = self._row
        if row >= len(self._positions):
            return
        here, state = self._positions[row], sample / self._scales[row]
        self._steps.insert(0, _Step(here, state, output))
        for stored in self._outputs.values():
            if stored[0].position == here and stored[0].state is None:  # the first call of a run
                stored[0] = stored[0]._replace(state=state)
        del self._steps[_HISTORY:]
        after = result[0] if isinstance(result, tuple) else result.prev_sample
        self._state = after / self._scales[row + 1] if row + 1 < len(self._scales) else None

    def run(self, original: Callable[..., Any], args: Any, kwargs: Any, *, row: int, call: int, batch: int) -> Any:
        """The estimated output, or the computed one."""
        if call == 0:
            self._row = row
            self._skips = self._rule.skips(row, self._figure(row))
        if self._skips and call in self._outputs:
            self._count(call=call, batch=batch, macs=0, computed=False)
            return self._estimate(row, self._outputs[call])
        output = original(*args, **kwargs)
        stored = self._outputs.setdefault(call, [])
        stored.insert(0, _Output(self._positions[row], self._state, output))
        del stored[_HISTORY:]
        self._count(call=call, batch=batch, macs=self._inventory.total_macs, computed=True)
        return output

    def _figure(self, row: int) -> float | None:
        """What the criterion says of the state that this call begins with; None without three different steps."""
        last, state = self._steps[:3], self._state
        positions = [self._positions[row], *(step.position for step in last)]
        if len(last) < 3 or state is None or len(set(positions)) < 4:
            return None
        if self._is_settled(row):
            return 0.0
        newest, middle, oldest = (step.slope for step in last)
        curvature = (newest - middle) - (middle - oldest)
        if self._policy.kind.is_released and self._flow:
            return 1.0 - float(curvature.mean() / curvature.abs().mean().clamp_min(torch.finfo(curvature.dtype).tiny))
        error = (state - self._extrapolated_state(row)).double().flatten()
        bent = curvature.double().flatten()
        return figure_of(float(error @ bent), float(error.norm()), float(bent.norm()))

    def _is_settled(self, row: int) -> bool:
        return self._policy.kind.settles and row >= self._policy.settled

    def _extrapolated_state(self, row: int) -> torch.Tensor:
        """The state of this call, from the state and the slopes before."""
        target, positions = self._positions[row], [step.position for step in self._steps]
        if self._policy.kind.is_released:
            h = target - positions[0]
            weights = tuple(h * weight for weight in RELEASED_STATE_WEIGHTS)
        else:
            weights = adams_bashforth(positions, target, self._policy.order)
        return self._steps[0].state + weighted_sum([s.slope for s in self._steps[: len(weights)]], weights)

    def _estimate(self, row: int, stored: list[_Output]) -> Any:
        """The output of a skipped call: weights on the last outputs, and a shift from the states."""
        target, state = self._positions[row], self._state
        positions = [item.position for item in stored]
        shift: torch.Tensor | None = None
        released = self._policy.kind.is_released
        weights: tuple[float, ...] = (1.0,)
        if released and self._flow:
            # Of equal steps: 2 v - v'. Later skips in a row repeat the last velocity, which is that of the first.
            if len(stored) >= 2:
                weights = (2.0, -1.0)
        elif self._is_settled(row) and state is not None:
            known = [item for item in stored if item.state is not None]
            terms = known[: _RELEASED_TERMS if released else self._policy.order + 1]
            if terms and len({item.position for item in terms}) == len(terms):
                stored, spread = known, lagrange([item.position for item in terms], target, len(terms))
                data = weighted_sum([item.state for item in terms if item.state is not None], spread)
                weights = tuple(w * item.position / target for w, item in zip(spread, terms, strict=True))
                shift = (state - data) / target
        elif released and state is not None:
            shift = (state - self._extrapolated_state(row)) / target
        else:
            n = min(self._policy.order, len(stored))
            if len(set(positions[:n])) == n:
                weights = lagrange(positions, target, n)
        tensors = [output_tensor(item.output) for item in stored[: len(weights)]]
        estimate = weighted_sum(tensors, weights)
        return replace_tensor(stored[0].output, estimate if shift is None else _shifted(estimate, shift))


def _shifted(output: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The output plus the shift, in every branch; channels beyond the latents', a learned variance, stay."""
    result = output.clone()
    copies = output.shape[0] // shift.shape[0]
    result[:, : shift.shape[1]] += shift.to(output.dtype).repeat(copies, *[1] * (shift.ndim - 1))
    return result
