"""Applies a cache and guidance plan to a diffusers pipeline; needs nothing but the pipeline.

remove = apply_plan(pipe)
pipe(..., num_inference_steps=N_STEPS)
remove()  # the pipeline is as it was
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autotune.reports.cached_tensors import (
    conditional_half,
    halves,
    join,
    map_tensors,
    plus,
    prediction,
    replace_prediction,
    weighted_sum,
)

Terms = tuple[tuple[int, float], ...]

# --- plan
DENOISER = ""
N_STEPS = 0
STREAMS: tuple[str, ...] = ()
COPIED: frozenset[str] = frozenset()
SPANS: Mapping[str, tuple[str, ...]] = {}
READS: Mapping[str, tuple[Terms, ...]] = {}
GUIDANCE: tuple[Terms | None, ...] = ()
SEPARATE = False
SITES: tuple[str, ...] = ()
ROWS: tuple[str, ...] = ()
# --- end of plan
# DENOISER is the class of the transformer or UNet. SITES is what is gated: modules of that name, or SPANS of modules
# that run one after the other, cached together: "final" as what leaves them, others as what they add to their inputs,
# the arguments STREAMS. ROWS has one text per network call and in it one letter per site: "." compute, "d" nobody reads
# the value; any other letter hands out the sum of kept values that READS says, as pairs (row that computed it, weight).
# READS has one sum per letter, or, if there is GUIDANCE, one for each of its branches, the unconditional one first.
# GUIDANCE has a None per row that runs both branches; any other row runs the conditional one, and the difference to the
# other is that sum of earlier differences. Branches are halves of a batch, the unconditional one first, or, if they are
# SEPARATE, two calls, the conditional one first. Values of COPIED sites may be changed in place: copies are kept.


class CachedPipeline:
    """One pipeline under the plan. The row of a network call is told by the scheduler, never counted from calls."""

    def __init__(self, pipe: Any) -> None:
        denoiser: Any = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
        if type(denoiser).__name__ != DENOISER:
            raise TypeError(f"the plan is for a {DENOISER}; this pipeline has a {type(denoiser).__name__}")
        self.scheduler = pipe.scheduler
        self.row: int | None = None  # None outside a run, where the gates are transparent
        self.call = 0  # network calls of this row: guidance in two calls keeps two sets of values
        self.batch = 0  # of the pipeline's call
        self.values: dict[tuple[int, int], dict[tuple[int, int], Any]] = {}  # (call, site): (part, row): value
        self.shapes: dict[tuple[int, int], Any] = {}
        self.differences: dict[tuple[int, int], Any] = {}
        self.conditional: Any = None  # what the first of separate calls returned, until the second one
        self.written: set[tuple[int, int]] = set()
        self.open: dict[int, tuple[tuple[Any, ...], Any]] = {}  # by site, inputs of a span and what it hands out
        self.undo: list[tuple[Any, str, bool, Any]] = []
        reads = [(row, site, READS.get(a, ())) for row, text in enumerate(ROWS) for site, a in enumerate(text)]
        self.last_read = {  # by site, part and row that computed
            (site, part, made): row
            for row, site, parts in reads
            for part, terms in enumerate(parts)
            for made, _ in terms
        }
        self.last_difference = {made: row for row, terms in enumerate(GUIDANCE) for made, _ in terms or ()}
        for site, name in reversed(list(enumerate(SITES))):  # gates of a span go around those inside it
            paths = SPANS.get(name, (name,))
            for path in paths:
                module = denoiser.get_submodule(path)
                self.override(module, "forward", self.span_gate if name in SPANS else self.gate, site, paths, path)
        self.override(denoiser, "forward", self.watch_call)
        self.override(self.scheduler, "set_timesteps", self.watch_start)
        self.override(self.scheduler, "step", self.watch_step)

    def override(self, owner: Any, name: str, wrap: Callable[..., Any], *args: Any) -> None:
        """Wrap a method until `remove`."""
        self.undo.append((owner, name, name in vars(owner), vars(owner).get(name)))
        original = getattr(owner, name)
        setattr(owner, name, functools.wraps(original)(wrap(original, owner, *args)))

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
        self.row, self.call, self.conditional = row, 0, None
        for kept in (self.values, self.shapes, self.differences, self.written, self.open):
            kept.clear()

    def watch_start(self, original: Callable[..., Any], scheduler: Any) -> Callable[..., Any]:
        """A `set_timesteps` that begins a run."""

        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            self.reset(None)
            result = original(*args, **kwargs)
            n_calls = len(scheduler.timesteps)
            if n_calls != len(ROWS):
                raise ValueError(
                    f"the plan has {len(ROWS)} rows; got {n_calls} calls: use num_inference_steps={N_STEPS}"
                )
            self.reset(0)
            return result

        return set_timesteps

    def watch_step(self, original: Callable[..., Any], scheduler: Any) -> Callable[..., Any]:
        """A `step` that moves to the next row."""

        def step(*args: Any, **kwargs: Any) -> Any:
            if self.row == 0:
                timestep, sample = (
                    args[i] if len(args) > i else kwargs[n] for i, n in ((1, "timestep"), (2, "sample"))
                )
                problem = ""
                if float(timestep) != float(scheduler.timesteps[0]):
                    problem = "the plan is for whole runs; this one began in the middle"
                elif GUIDANCE and (self.call != 2 if SEPARATE else 2 * sample.shape[0] != self.batch):
                    problem = "the plan is for guided runs; this one is not guided: raise guidance_scale" + (
                        " (or true_cfg_scale, with a negative prompt)" * SEPARATE
                    )
                if problem:
                    self.reset(None)
                    raise ValueError(problem)
            result = original(*args, **kwargs)
            if self.row is not None:
                self.row, self.call = self.row + 1, 0
                if self.row == len(ROWS):
                    self.reset(None)
            return result

        return step

    def watch_call(self, original: Callable[..., Any], denoiser: Any) -> Callable[..., Any]:
        """The denoiser's `forward`, with one half of the batch where the row says so; an error forgets all."""
        first = next(iter(inspect.signature(original).parameters))

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.written.clear()
            self.open.clear()
            self.batch = (args[0] if args else kwargs[first]).shape[0]
            try:
                result = self.run(original, args, kwargs)
            except BaseException:
                self.reset(None)
                raise
            self.call += 1
            return result

        return forward

    def run(self, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """One network call, and the unconditional branch that is estimated where it was left out."""
        if self.row is None or not GUIDANCE:
            return original(*args, **kwargs)
        terms = GUIDANCE[self.row]
        if SEPARATE:
            first, self.conditional = self.conditional, None
            if self.call == 1 and terms is not None:
                return replace_prediction(first, self.estimate(prediction(first), terms))
            result = original(*args, **kwargs)
            if self.call == 0:
                self.conditional = result
            elif self.call == 1 and self.row in self.last_difference:
                self.differences[self.call, self.row] = (prediction(first) - prediction(result)).detach()
            return result
        if terms is None:
            result = original(*args, **kwargs)
            if self.row in self.last_difference:
                unconditional, conditional = halves(prediction(result))
                self.differences[self.call, self.row] = (conditional - unconditional).detach()
            return result
        args, kwargs = conditional_half((args, kwargs), self.batch)
        result = original(*args, **kwargs)
        conditional = prediction(result)
        return replace_prediction(result, join([self.estimate(conditional, terms), conditional]))

    def estimate(self, conditional: Any, terms: Terms) -> Any:
        """The unconditional prediction of this row; differences are freed after their last use."""
        if not terms:
            return conditional
        past = [self.differences[self.call, made] for made, _ in terms]
        unconditional = conditional - weighted_sum(past, [weight for _, weight in terms])
        for made, last in self.last_difference.items():
            if last <= (self.row or 0):
                self.differences.pop((self.call, made), None)
        return unconditional

    def gate(self, original: Any, module: Any, site: int, paths: Sequence[str], path: str) -> Callable[..., Any]:
        """A module's `forward` that does what the plan says."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            value = self.read(site)
            if value is None:
                value = original(*args, **kwargs)
                self.keep(site, value)
            return value

        return forward

    def span_gate(self, original: Any, module: Any, site: int, paths: Sequence[str], path: str) -> Callable[..., Any]:
        """The same for a module of a span: the last one hands out the value, the others their inputs."""
        names = list(inspect.signature(type(module).forward).parameters)[1:]
        places = [(names.index(name), name) for name in STREAMS]
        residual = SITES[site] != "final"

        def forward(*args: Any, **kwargs: Any) -> Any:
            streams = tuple(args[i] if i < len(args) else kwargs[name] for i, name in places)
            if path == paths[0]:
                self.open[site] = (streams, self.read(site))
            inputs, value = self.open.get(site, (streams, None))
            if value is None:
                result = original(*args, **kwargs)
                if path == paths[-1]:
                    self.keep(site, plus(result, inputs, -1.0) if residual else result)
                return result
            if path == paths[-1]:
                return plus(value, inputs, 1.0) if residual else value
            if "Down" in type(module).__name__:  # of a UNet, whose skip connections nobody will read
                return streams[0], streams * (len(module.resnets) + len(module.downsamplers or ()))
            return streams if len(streams) > 1 else streams[0]

        return forward

    def read(self, site: int) -> Any:
        """What the plan hands out in place of a computation; None to compute."""
        if self.row is None:
            return None
        letter, key = ROWS[self.row][site], (self.call, site)
        if letter == "d" and key in self.shapes:
            whole = SEPARATE or not GUIDANCE or GUIDANCE[self.row] is None
            batch = self.batch if whole else self.batch // 2
            return map_tensors(lambda x: x[:1].expand(batch, *x.shape[1:]), self.shapes[key])
        sums = [(part, terms) for part, terms in enumerate(READS.get(letter, ()))]
        sums = [(part, terms) for part, terms in sums if terms and self.branch in (None, part)]
        kept = self.values.get(key, {})
        if not sums or any((part, made) not in kept for part, terms in sums for made, _ in terms):
            return None
        parts = [weighted_sum([kept[part, made] for made, _ in terms], [w for _, w in terms]) for part, terms in sums]
        self.forget(site)
        value = parts[0] if len(parts) == 1 else join(parts)
        return map_tensors(lambda x: x.clone(), value) if SITES[site] in COPIED and kept else value

    @property
    def branch(self) -> int | None:
        """Which branch a separate call runs: 0 is the unconditional, 1 the conditional one."""
        return int(self.call == 0) if GUIDANCE and SEPARATE else None

    def keep(self, site: int, value: Any) -> None:
        """Keep what later rows read of a value that was computed."""
        if self.row is None:
            return
        key = (self.call, site)
        if any(text[site] == "d" for text in ROWS):
            self.shapes[key] = map_tensors(lambda x: x.new_zeros(()).expand(x.shape), value)
        parts = [(self.branch or 0, value)]
        if GUIDANCE and not SEPARATE:
            split = GUIDANCE[self.row] is None  # copies, since a view would hold the whole
            cut = [map_tensors(lambda x, half=half: halves(x)[half].clone(), value) for half in (0, 1)] if split else []
            parts = list(enumerate(cut)) or [(1, value)]
        for part, item in parts:
            if (site, part, self.row) in self.last_read:
                if (site, part) in self.written:
                    raise RuntimeError(f"{SITES[site]} ran twice in one call: switch off feed-forward chunking")
                self.written.add((site, part))
                change = (lambda x: x.detach().clone()) if SITES[site] in COPIED else (lambda x: x.detach())
                self.values.setdefault(key, {})[part, self.row] = map_tensors(change, item)
        self.forget(site)

    def forget(self, site: int) -> None:
        """Free what this row was the last one to read."""
        kept = self.values.get((self.call, site), {})
        for part, made in [k for k in kept if self.last_read[site, *k] <= (self.row or 0)]:
            del kept[part, made]
        if not kept:
            self.values.pop((self.call, site), None)


def apply_plan(pipe: Any) -> Callable[[], None]:
    """Put the plan on a pipeline; what is returned takes it off again."""
    return CachedPipeline(pipe).remove
