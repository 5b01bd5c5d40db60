"""One schedule on one pipeline: the wrapped denoiser, its clock and its state."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from autotune.evaluators.adapters import Adapter
from autotune.evaluators.branch_store import first_half, second_half
from autotune.evaluators.cache_runtime import CacheRuntime
from autotune.evaluators.gate import COMPILED, entry_name, in_python, uncompiled
from autotune.evaluators.guidance import (
    NOT_GUIDED,
    GuidanceRuntime,
    SeparateGuidance,
    half_of,
    halves_are_equal,
    output_tensor,
    replace_tensor,
)
from autotune.evaluators.guidance_gain import GuidanceGain
from autotune.evaluators.measured_run import MeasuredRun, RunCheck
from autotune.evaluators.override import Overrides
from autotune.evaluators.policy_runtime import PolicyRuntime
from autotune.evaluators.quantized_layers import QuantizationRuntime
from autotune.evaluators.run_clock import RunClock
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.schedule import Schedule

StepWatcher = Callable[[Any, Any, Any], None]


class Attachment:
    """What `attach` puts on a pipeline, and `remove` takes off.

    `original_scheduler` is the pipeline's own. `cache`, `guidance`, `gain`, `policy` and `quantization` are None where
    the schedule has no such thing, or one that changes nothing; a gain comes with `guidance`. The starting
    noise is multiplied by `initial_scale`. A run that is not like the `measured` one warns, and raises where the
    schedule has tables.
    """

    def __init__(
        self,
        pipe: Any,
        schedule: Schedule,
        *,
        cache: CacheRuntime | None,
        guidance: GuidanceRuntime | None,
        gain: GuidanceGain | None = None,
        policy: PolicyRuntime | None = None,
        quantization: QuantizationRuntime | None = None,
        initial_scale: float = 1.0,
        measured: MeasuredRun | None = None,
    ) -> None:
        self.schedule, self.cache, self.guidance, self.policy = schedule, cache, guidance, policy
        self.quantization, self._gain = quantization, gain
        self.original_scheduler = pipe.scheduler
        self._pipe, self._initial_scale = pipe, initial_scale
        self._check = RunCheck(pipe, measured, has_tables=bool(schedule.tables)) if measured is not None else None
        self._overrides = Overrides()
        self._signatures: dict[int, object] = {}
        self._removed = False
        self._entry: tuple[str, Any, str] | None = None
        columns = (schedule.time, schedule.guidance)
        rows = [len(column) for column in columns if column is not None]
        n_rows = schedule.cache.n_calls if schedule.cache is not None else rows[0] if rows else None
        if schedule.policy is not None and n_rows is None:
            n_rows = schedule.policy.n_calls
        self._clock = RunClock(n_steps=schedule.n_steps, n_rows=n_rows, on_begin=self._begin, on_end=self._reset)

    def install(self, scheduler: Any, adapter: Adapter | None, *, every_site: bool = False) -> None:
        """Set the scheduler, the gates and the wrapper of the denoiser; on failure nothing is left behind."""
        pipe = self._pipe
        try:
            if scheduler is not pipe.scheduler:
                pipe.scheduler = scheduler
            self._clock.install(scheduler, self._overrides)
            if hasattr(pipe, "progress_bar"):
                self._overrides.set(pipe, "progress_bar", self._clock.watched_bar(pipe.progress_bar))
            if self._initial_scale != 1.0:
                self._overrides.set(pipe, "prepare_latents", self._scaled(pipe.prepare_latents))
            watchers: list[StepWatcher] = []
            if adapter is not None:
                if self.quantization is not None:  # first, so that the gates of a cache stand around its layers
                    self.quantization.install(adapter.denoiser_of(pipe), self._overrides)
                if self.cache is not None:
                    self.cache.install(adapter.denoiser_of(pipe), self._overrides, every_site=every_site)
                if self.policy is not None:
                    self.policy.install(adapter.denoiser_of(pipe), self._overrides)
                    watchers.append(self.policy.see_step)
                if self._check is not None and self._check.on_step is not None:
                    watchers.append(self._check.on_step)
                self._clock.on_step = _all_of(watchers)
                denoiser = getattr(pipe, adapter.denoiser_attr)
                entry = entry_name(denoiser)
                self._entry = (adapter.denoiser_attr, denoiser, entry)
                self._overrides.set(denoiser, entry, in_python(self._wrap(denoiser, getattr(denoiser, entry))))
        except BaseException:
            self.uninstall()
            raise

    def uninstall(self) -> None:
        """Undo `install`; a scheduler that the user has set since stays."""
        self._removed = True
        self._clock.stop()
        if self._pipe.scheduler is not self.scheduler_after_removal():
            self._pipe.scheduler = self.original_scheduler
        self._overrides.undo()

    def scheduler_after_removal(self) -> Any:
        """What the pipeline's scheduler would be after `uninstall`."""
        scheduler = self._pipe.scheduler
        return self.original_scheduler if scheduler is self._clock.scheduler else scheduler

    def _scaled(self, prepare: Callable[..., Any]) -> Callable[..., Any]:
        """A `prepare_latents` whose latents are scaled; FLUX returns image ids beside them."""

        @functools.wraps(prepare)
        def prepare_latents(*args: Any, **kwargs: Any) -> Any:
            prepared = prepare(*args, **kwargs)
            if self._removed:
                return prepared
            if isinstance(prepared, tuple):
                return (prepared[0] * self._initial_scale, *prepared[1:])
            return prepared * self._initial_scale

        return prepare_latents

    def _begin(self) -> None:
        self._refuse_later_compilation()
        if self._check is not None:
            self._check.begin()
        for part in (self.cache, self.guidance):
            if part is not None:
                part.begin()
        if self.policy is not None:
            self.policy.begin(self._clock.timesteps)

    def _refuse_later_compilation(self) -> None:
        """A module that was compiled since would run its graphs in place of the gates that were set."""
        replaced = self._overrides.replaced(COMPILED)
        if self._entry is not None:
            attr, denoiser, entry = self._entry
            if getattr(self._pipe, attr) is not denoiser or entry_name(denoiser) != entry:
                replaced.append(uncompiled(denoiser))
        if replaced:
            raise ScheduleMismatchError(
                f"a pipeline must be compiled before a schedule is applied; its {type(replaced[0]).__name__} was "
                f"compiled or replaced since; call autotune.remove(pipe) and apply the schedule again"
            )

    def _reset(self) -> None:
        self._signatures.clear()
        for part in (self.cache, self.guidance, self._gain, self.policy):
            if part is not None:
                part.reset()

    def _wrap(self, denoiser: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        first_name = list(inspect.signature(type(uncompiled(denoiser)).forward).parameters)[1]

        @functools.wraps(original, updated=())
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._removed:  # reached only where someone else has wrapped this wrapper
                return original(*args, **kwargs)
            if self._pipe.scheduler is not self._clock.scheduler:
                raise ScheduleMismatchError(
                    f"the scheduler must stay while a schedule is applied; it was replaced by a "
                    f"{type(self._pipe.scheduler).__name__}; call autotune.remove(pipe) and apply the schedule again"
                )
            position = self._clock.enter_call()
            if position is None:
                return original(*args, **kwargs)
            try:
                return self._run(original, args, kwargs, args[0] if args else kwargs[first_name], position)
            except BaseException:
                self._clock.stop()
                raise
            finally:
                for part in (self.cache, self.policy, self.quantization):
                    if part is not None:
                        part.leave()

        return forward

    def _run(
        self,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        latents: torch.Tensor,
        position: tuple[int, int],
    ) -> Any:
        row, call = position
        signature = [(x.shape, x.dtype, x.device) for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
        if self._signatures.get(call) != signature:
            self._see_new_shapes(call, signature, latents)
        batch = latents.shape[0]
        if self.quantization is not None:
            self.quantization.enter(row)

        def network(args: tuple[Any, ...], kwargs: dict[str, Any], half: bool) -> Any:
            if self.cache is None:
                return original(*args, **kwargs)
            if not self.cache.splits_batch:
                self.cache.enter(row, call, batch=batch // 2 if half else batch, half=half)
                return original(*args, **kwargs)
            outputs = []
            for branch, cut in enumerate((second_half, first_half)[: 1 if half else 2]):
                some_args, some_kwargs = (args, kwargs) if half else half_of((args, kwargs), batch, cut)
                self.cache.enter(row, branch, batch=batch // 2, half=False)
                outputs.append(original(*some_args, **some_kwargs))
            return replace_tensor(outputs[0], torch.cat([output_tensor(output) for output in reversed(outputs)]))

        if self.policy is not None:
            output = self.policy.run(original, args, kwargs, row=row, call=call, batch=batch)
        elif self.guidance is None:
            output = network(args, kwargs, False)
        else:
            output = self.guidance.run(network, args, kwargs, row=row, call=call, batch=batch)
        output = output if self.cache is None else self.cache.correct_output(output, latents, row, call)
        output = output if self._gain is None else self._gain.apply(output, row, call)
        if row == 0 and self._check is not None:
            self._check.see_output(output)
        return output

    def _see_new_shapes(self, call: int, signature: object, latents: torch.Tensor) -> None:
        if call in self._signatures:
            self._reset()
        self._signatures[call] = signature
        if self.guidance is not None:
            # Many pipelines don't say whether a call is guided; a guided batch holds every latent twice.
            separate = isinstance(self.guidance, SeparateGuidance)
            said = getattr(self._pipe, "do_classifier_free_guidance", True)
            if not said or not (separate or halves_are_equal(latents)):
                raise ScheduleMismatchError(NOT_GUIDED)
            if separate:
                self._clock.step_calls = 2
            else:
                self._clock.sample_batch = latents.shape[0] // 2
        if self._check is not None:
            self._check.see_call(call)
            self._check.see_latents(latents, lambda: self._clock.timesteps)


def _all_of(watchers: Sequence[StepWatcher]) -> StepWatcher | None:
    if not watchers:
        return None

    def watch(output: torch.Tensor, sample: torch.Tensor, result: Any) -> None:
        for watcher in watchers:
            watcher(output, sample, result)

    return watch
