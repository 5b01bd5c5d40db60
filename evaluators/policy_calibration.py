"""What the policies of a model are calibrated on, watched during default runs of the unmodified pipeline."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.stack_policy import attention_input, modulated_leaf, relative_change
from autotune.evaluators.step_hook import before_each_step, hooked
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.inventory import FINAL, STACK, Inventory
from autotune.spaces.policy_calibration import PolicyCalibration


class CalibrationRecorder:
    """Follows what the stack adds to the image's hidden state, and the first block's modulated input.

    Of a UNet, whose shapes change, it follows the hidden state after the last stage alone. Of several network calls in
    a step it takes the last one.
    """

    def __init__(self, pipe: Any, inventory: Inventory, n_calls: int) -> None:
        self._pipe, self._n_calls = pipe, n_calls
        adapter = find_adapter(pipe)
        self._denoiser = adapter.denoiser_of(pipe)
        spans = adapter.list_spans(self._denoiser)
        self._span = spans[STACK] if STACK in spans else spans[FINAL]
        self._image = self._span.streams.index("hidden_states")
        self._modulated = modulated_leaf(inventory, spans) if STACK in spans else None
        self._now: dict[str, torch.Tensor] = {}
        self._before: dict[str, torch.Tensor] = {}
        self._call = 0
        self._rows: dict[str, list[list[float]]] = {"ratio": [], "input": [], "output": []}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record the runs made inside the block."""
        first, last = (self._denoiser.get_submodule(self._span.modules[i]) for i in (0, -1))
        inputs_of = self._span.inputs_of(first)
        given: list[Any] = []

        def see_input(module: Any, args: Any, kwargs: Any) -> None:
            given[:] = inputs_of(args, kwargs)

        def see_result(module: Any, args: Any, result: Any) -> None:
            whole = result if isinstance(result, torch.Tensor) else tuple(result)
            form = self._span.stored_form(whole, tuple(given))
            self._now["residual"] = form if isinstance(form, torch.Tensor) else form[self._image]

        def see_modulated(module: Any, args: Any, kwargs: Any) -> None:
            self._now["modulated"] = attention_input(args, kwargs)

        handles = [first.register_forward_pre_hook(see_input, with_kwargs=True)]
        handles.append(last.register_forward_hook(see_result))
        if self._modulated is not None:
            leaf = self._denoiser.get_submodule(self._modulated)
            handles.append(leaf.register_forward_pre_hook(see_modulated, with_kwargs=True))
        with hooked(handles), before_each_step(self._pipe.scheduler, self._feed):
            yield

    def result(self) -> PolicyCalibration:
        """The calibration from all runs.

        Raises:
            EvaluatorError: no run was recorded, or the last one is not complete.
            ScheduleError: a feature was not finite.
        """
        if self._call or not self._rows["ratio"]:
            raise EvaluatorError(f"a calibration needs complete runs of {self._n_calls} calls; got {self._call}")
        return PolicyCalibration.fit(self._rows["ratio"], self._rows["input"], self._rows["output"])

    def _feed(self) -> None:
        now, before = self._now, self._before
        if self._call == 0:
            for rows in self._rows.values():
                rows.append([])
        else:
            here, there = now["residual"], before["residual"]
            axis = -1 if here.ndim == 3 else 1
            ratio = here.float().norm(dim=axis) / there.float().norm(dim=axis).clamp_min(1e-8)
            self._rows["ratio"][-1].append(float(ratio.mean()))
            self._rows["output"][-1].append(relative_change(here, there))
            if self._modulated is not None:
                self._rows["input"][-1].append(relative_change(now["modulated"], before["modulated"]))
        self._before, self._now = dict(now), {}
        self._call = (self._call + 1) % self._n_calls
