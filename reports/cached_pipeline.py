"""Applies a cache plan to a diffusers pipeline; needs nothing but the pipeline.

remove = apply_plan(pipe)
pipe(..., num_inference_steps=N_STEPS)
remove()  # the pipeline is as it was
"""

import functools
from collections.abc import Callable
from typing import Any

# --- plan
DENOISER = ""
N_STEPS = 0
COPIED: frozenset[str] = frozenset()
SITES: tuple[str, ...] = ()
ROWS: tuple[str, ...] = ()
# --- end of plan
# DENOISER is the class of the transformer or UNet, SITES are its gated modules. ROWS has one text per network call and
# in it one letter per site: "." compute, "w" compute and keep, "r" hand out the kept value, "t" hand it out and forget
# it, "d" nobody reads the value. Values of COPIED sites may be changed in place by others, so copies are kept.


class CachedPipeline:
    """One pipeline under the plan. The row of a network call is told by the scheduler, never counted from calls."""

    def __init__(self, pipe: Any) -> None:
        denoiser: Any = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
        if type(denoiser).__name__ != DENOISER:
            raise TypeError(f"the plan is for a {DENOISER}; this pipeline has a {type(denoiser).__name__}")
        self.scheduler = pipe.scheduler
        self.row: int | None = None  # None outside a run, where the gates are transparent
        self.call = 0  # network calls of this row: guidance in two calls keeps two sets of values
        self.values: dict[tuple[int, int], Any] = {}
        self.shapes: dict[tuple[int, int], Any] = {}
        self.written: set[int] = set()
        self.undo: list[tuple[Any, str, bool, Any]] = []
        modules = [denoiser.get_submodule(name) for name in SITES]
        for site, module in enumerate(modules):
            self.override(module, "forward", self.gate(site, module.forward))
        self.override(denoiser, "forward", self.watch_call(denoiser.forward))
        self.override(self.scheduler, "set_timesteps", self.watch_start(self.scheduler.set_timesteps))
        self.override(self.scheduler, "step", self.watch_step(self.scheduler.step))

    def override(self, owner: Any, name: str, value: Any) -> None:
        """Shadow an attribute until `remove`."""
        self.undo.append((owner, name, name in vars(owner), vars(owner).get(name)))
        setattr(owner, name, value)

    def remove(self) -> None:
        """Undo all of it."""
        self.reset(None)
        while self.undo:
            owner, name, was_set, before = self.undo.pop()
            if was_set:
                setattr(owner, name, before)
            else:
                delattr(owner, name)

    def reset(self, row: int | None) -> None:
        """Forget all values, and begin a run (0) or end it (None)."""
        self.row, self.call = row, 0
        for kept in (self.values, self.shapes, self.written):
            kept.clear()

    def watch_start(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A `set_timesteps` that begins a run."""

        @functools.wraps(original)
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            self.reset(None)
            result = original(*args, **kwargs)
            n_calls = len(self.scheduler.timesteps)
            if n_calls != len(ROWS):
                raise ValueError(
                    f"the plan has {len(ROWS)} rows; got {n_calls} calls: use num_inference_steps={N_STEPS}"
                )
            self.reset(0)
            return result

        return set_timesteps

    def watch_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A `step` that moves to the next row."""

        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            timestep = args[1] if len(args) > 1 else kwargs["timestep"]
            if self.row == 0 and float(timestep) != float(self.scheduler.timesteps[0]):
                self.reset(None)
                raise ValueError("the plan is for whole runs; this one began in the middle")
            result = original(*args, **kwargs)
            if self.row is not None:
                self.row, self.call = self.row + 1, 0
                if self.row == len(ROWS):
                    self.reset(None)
            return result

        return step

    def watch_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The denoiser's `forward`, counted within a row; after an error nothing is kept."""

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.written.clear()
            try:
                result = original(*args, **kwargs)
            except BaseException:
                self.reset(None)
                raise
            self.call += 1
            return result

        return forward

    def gate(self, site: int, original: Callable[..., Any]) -> Callable[..., Any]:
        """A module's `forward` that does what the plan says."""
        may_be_dead = any(row[site] == "d" for row in ROWS)
        keep = copy if SITES[site] in COPIED else detach

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.row is None:
                return original(*args, **kwargs)
            action, key = ROWS[self.row][site], (self.call, site)
            if action == "t" and key in self.values:
                return self.values.pop(key)
            if action == "r" and key in self.values:
                return keep(self.values[key])
            if action == "d" and key in self.shapes:
                return self.shapes[key]
            value = original(*args, **kwargs)
            if may_be_dead:
                self.shapes[key] = map_tensors(lambda x: x.new_zeros(()).expand(x.shape), value)
            if action in "wr":
                if site in self.written:
                    raise RuntimeError(f"{SITES[site]} ran twice in one call: switch off feed-forward chunking")
                self.written.add(site)
                self.values[key] = keep(value)
            return value

        return forward


def map_tensors(change: Callable[[Any], Any], value: Any) -> Any:
    """What a module returned, a tensor or nested tuples of them, with each tensor changed."""
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(change, item) for item in value)
    return change(value) if hasattr(value, "detach") else value


def detach(value: Any) -> Any:
    """The value without its graph."""
    return map_tensors(lambda x: x.detach(), value)


def copy(value: Any) -> Any:
    """A copy of the value."""
    return map_tensors(lambda x: x.detach().clone(), value)


def apply_plan(pipe: Any) -> Callable[[], None]:
    """Put the plan on a pipeline; what is returned takes it off again."""
    return CachedPipeline(pipe).remove
