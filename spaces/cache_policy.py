"""The policy of a schedule: a rule that decides at run time which network calls to approximate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType

from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory
from autotune.spaces.strict_json import as_object


class PolicyKind(StrEnum):
    """Whose rule it is. Those that begin with `diffusers-` are diffusers' own caches, run by diffusers itself."""

    SADA = "sada"
    """Jiang et al. 2025: skip where the extrapolated state and the ODE agree; Adams-Bashforth form.

    The output of a skipped call is extrapolated from the last ones. Rebuilt as in the paper, from the last noise at the
    extrapolated state, samples were about 1.5 times as far off on mini-pixart and mini-flux in as many computed calls.
    """
    SADA_MULTISTEP = "sada-multistep"
    """The same, and from call `settled` on every (max_skips + 1)-th call, with the data interpolated between."""
    SADA_RELEASED = "sada-released"
    """SADA with the coefficients and the reuse of its released code."""
    SADA_RELEASED_MULTISTEP = "sada-released-multistep"
    """The same, and from call `settled` on as its released code goes on: every (max_skips + 1)-th call, the data
    interpolated through the last four computed ones, or of a flow the velocity carried on as before."""
    TEACACHE = "teacache"
    """Liu et al. 2024: a polynomial of the change of the first block's modulated input, accumulated."""
    FIRST_BLOCK = "first-block"
    """FBCache: the change of what the first block adds."""
    MAGCACHE = "magcache"
    """Ma et al. 2025: the accumulated error of calibrated ratios of the stack's residuals."""
    DIFFUSERS_FIRST_BLOCK = "diffusers-first-block"
    DIFFUSERS_TAYLORSEER = "diffusers-taylorseer"
    DIFFUSERS_MAGCACHE = "diffusers-magcache"
    DIFFUSERS_PAB = "diffusers-pab"
    DIFFUSERS_FASTERCACHE = "diffusers-fastercache"

    @property
    def by_diffusers(self) -> bool:
        """Whether diffusers does the caching."""
        return self.startswith("diffusers-")

    @property
    def is_sada(self) -> bool:
        """Whether the rule looks at the solver's states and skips the whole network."""
        return self.startswith("sada")

    @property
    def is_released(self) -> bool:
        """Whether the rule is that of SADA's released code."""
        return self.startswith("sada-released")

    @property
    def settles(self) -> bool:
        """Whether the rule computes calls at an interval once it has settled."""
        return self.endswith("-multistep")


_GUARDS = ("max_skips", "warm_up", "cool_down")
_READS: Mapping[PolicyKind, tuple[str, ...]] = MappingProxyType(
    {
        PolicyKind.SADA: ("threshold", *_GUARDS, "order"),
        PolicyKind.SADA_MULTISTEP: ("threshold", *_GUARDS, "order", "settled"),
        PolicyKind.SADA_RELEASED: ("threshold", *_GUARDS),
        PolicyKind.SADA_RELEASED_MULTISTEP: ("threshold", *_GUARDS, "settled"),
        PolicyKind.TEACACHE: ("threshold", *_GUARDS, "polynomial"),
        PolicyKind.FIRST_BLOCK: ("threshold", *_GUARDS),
        PolicyKind.MAGCACHE: ("threshold", *_GUARDS, "ratios"),
        PolicyKind.DIFFUSERS_FIRST_BLOCK: ("threshold",),
        PolicyKind.DIFFUSERS_TAYLORSEER: ("interval", "warm_up", "order"),
        PolicyKind.DIFFUSERS_MAGCACHE: ("threshold", "max_skips", "warm_up", "ratios"),
        PolicyKind.DIFFUSERS_PAB: ("interval", "window"),
        PolicyKind.DIFFUSERS_FASTERCACHE: ("interval", "window"),
    }
)
CACHE_MIXIN = frozenset({"FluxTransformer2DModel", "QwenImageTransformer2DModel", "WanTransformer3DModel"})
"""Known denoisers on which diffusers can enable its caches."""

UNLIMITED = 1000
"""`max_skips` of a rule that does not limit them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """A rule and its numbers; a kind reads some of them, and the others keep their defaults.

    `threshold` (>= 0) is what the rule's figure is compared with: the relative change of the first block's residual;
    the accumulated estimate of TeaCache; the accumulated error of MagCache; of SADA, 1 + the cosine between the
    extrapolation error of the state and the curvature of the ODE (below 1 is the published criterion, 0 never skips).
    At most `max_skips` calls in a row are skipped, never the first `warm_up` nor the last `cool_down`. `order` of
    SADA is that of its Adams-Bashforth form, 2 or 3; of TaylorSeer that of the expansion, 1 or 2. `interval` is the
    number of calls from one computed to the next. `window` are model timesteps between which attention is reused.
    `ratios` holds per network call the mean ratio of the norms of the residuals of this call and the one before, the
    first being 1. `polynomial` are coefficients, highest degree first.

    Raises:
        ScheduleError: a number is out of its range, or stands in a policy whose kind does not read it.
    """

    kind: PolicyKind
    threshold: float = 0.0
    max_skips: int = UNLIMITED
    warm_up: int = 1
    cool_down: int = 0
    order: int = 1
    interval: int = 2
    settled: int = 1
    window: tuple[float, float] = (100.0, 800.0)
    ratios: tuple[float, ...] = ()
    polynomial: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.kind, PolicyKind):
            raise ScheduleError(f"policy.kind must be one of {', '.join(PolicyKind)}; got {self.kind!r}")
        for item in fields(self):
            if item.name not in ("kind", *_READS[self.kind]) and getattr(self, item.name) != item.default:
                raise ScheduleError(
                    f"a policy of the kind {self.kind} reads {', '.join(_READS[self.kind])}; got {item.name}: leave it "
                    "out"
                )
        self._check_ranges()
        if self.kind.is_sada and not self.kind.is_released and self.order not in (2, 3):
            raise ScheduleError(f"policy.order must be 2 or 3 of {self.kind}; got {self.order}")
        if self.kind in (PolicyKind.MAGCACHE, PolicyKind.DIFFUSERS_MAGCACHE) and len(self.ratios) < 2:
            raise ScheduleError(
                f"policy.ratios must hold one ratio per network call; got {len(self.ratios)}: calibrate them"
            )
        if self.kind is PolicyKind.TEACACHE and not self.polynomial:
            raise ScheduleError("policy.polynomial must have a coefficient or more; got none: calibrate it")

    def _check_ranges(self) -> None:
        for name, low, high in _INTEGERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ScheduleError(f"policy.{name} must be an integer from {low} to {high}; got {value!r}")
        numbers = {"threshold": (self.threshold,), "window": self.window}
        numbers |= {"ratios": self.ratios, "polynomial": self.polynomial}
        for name, values in numbers.items():
            for value in values:
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise ScheduleError(f"policy.{name} must be finite numbers; got {value!r}")
        if self.threshold < 0.0:
            raise ScheduleError(f"policy.threshold must be at least 0; got {self.threshold}")
        if any(ratio <= 0.0 for ratio in self.ratios):
            raise ScheduleError(f"policy.ratios must be positive; got {min(self.ratios)}: calibrate them again")
        if len(self.window) != 2 or not self.window[0] < self.window[1]:
            raise ScheduleError(f"policy.window must be two timesteps, the lower first; got {self.window}")

    @property
    def n_calls(self) -> int | None:
        """Network calls of the runs that it is calibrated for; None for any number."""
        return len(self.ratios) or None

    @property
    def text(self) -> str:
        """The kind and the numbers that are not lists, in a few words."""
        named = [name for name in _READS[self.kind] if not isinstance(getattr(self, name), tuple)]
        shown = [f"{name.replace('_', ' ')} {getattr(self, name):.4g}" for name in named if name not in _GUARDS]
        if self.warm_up > 1:
            shown.append(f"after {self.warm_up} calls")
        if "max_skips" in named and self.max_skips < UNLIMITED:
            shown.append(f"at most {self.max_skips} skips in a row")
        if "window" in _READS[self.kind]:
            shown.append(f"timesteps {self.window[0]:g} to {self.window[1]:g}")
        return ", ".join((self.kind, *shown))

    def to_json(self) -> dict[str, object]:
        """A JSON object with what the kind reads."""
        data: dict[str, object] = {"kind": str(self.kind)}
        for name in _READS[self.kind]:
            value = getattr(self, name)
            integral = name in _INTEGER_NAMES
            data[name] = list(map(float, value)) if isinstance(value, tuple) else value if integral else float(value)
        return data


_INTEGERS = (
    ("max_skips", 1, UNLIMITED),
    ("warm_up", 0, 1000),
    ("cool_down", 0, 1000),
    ("order", 0, 3),
    ("interval", 1, 1000),
    ("settled", 1, 1000),
)
_INTEGER_NAMES = tuple(name for name, _, _ in _INTEGERS)


def policy_from_json(data: object) -> CachePolicy:
    """The policy that `CachePolicy.to_json` wrote.

    Raises:
        ScheduleError: a key is missing or unknown, or a value breaks a rule.
    """
    values = as_object(data, "policy")
    kind = values.get("kind")
    if kind not in list(PolicyKind):
        raise ScheduleError(f"policy.kind must be one of {', '.join(PolicyKind)}; got {kind!r}")
    kind = PolicyKind(str(kind))
    known = {"kind", *_READS[kind]}
    if set(values) != known:
        raise ScheduleError(
            f"a policy of the kind {kind} must have the keys {', '.join(_READS[kind])}; missing or unknown: "
            f"{sorted(known ^ set(values))}"
        )
    made: dict[str, object] = {}
    for name in _READS[kind]:
        value = values[name]
        if name in ("window", "ratios", "polynomial"):
            if not isinstance(value, list):
                raise ScheduleError(f"policy.{name} must be a list; got {type(value).__name__}")
            value = tuple(value)
        made[name] = value
    return CachePolicy(kind=kind, **made)  # type: ignore[arg-type]  # checked by the class


def supports(kind: PolicyKind, inventory: Inventory) -> bool:
    """Whether a policy of this kind can run on denoisers of this inventory.

    The caches of diffusers need its `CacheMixin`, TeaCache a first block whose input is modulated.
    """
    if kind.by_diffusers:
        return inventory.denoiser_class in CACHE_MIXIN
    return kind is not PolicyKind.TEACACHE or inventory.denoiser_class != "UNet2DConditionModel"
