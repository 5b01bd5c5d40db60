"""What a comparison says of the errors of its contenders: deviations, failures, or both side by side."""

from dataclasses import dataclass

from autotune.reports.wording import EPISODES, IMAGES
from autotune.spaces.error_scale import DEVIATIONS, ERRORS, FAILURES, ErrorScale

_AXES = "Normalised axes: latency over that of the study's own default run, measured in turn with it, and"
_IN_MS = "Milliseconds per"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareWording:
    """Words and parts of sentences that depend on which errors the contenders have.

    `scale` is what they have in common, `run` what a latency is of. `box` are the corners of the hypervolume's box,
    `on_log` its scale. `errors` are divided by the default run's own, which `axes` explains; `absolute` explains the
    other axes. `best` is who wins at equal speed, `own` says what figures of different conditions are relative to.
    """

    scale: ErrorScale
    run: str
    box: tuple[str, str]
    on_log: str
    errors: str
    axes: str
    absolute: str
    best: str
    own: str

    @property
    def units(self) -> str:
        """What the values of a measurement are of, in the plural."""
        return self.scale.units

    @property
    def unit(self) -> str:
        """One of them."""
        return " or ".join(word.removesuffix("s") for word in self.units.split(" or "))


_OF_IMAGES = CompareWording(
    scale=DEVIATIONS,
    run=IMAGES.run,
    box=IMAGES.box,
    on_log="deviation on a logarithmic scale",
    errors=IMAGES.errors,
    axes=f"{_AXES} deviation over the default run's own on the same prompts. A default run of more steps lies nearer "
    "to the converged one, so its 1 asks for more; the absolute axes, and every hypervolume, take the deviation as it "
    "is.",
    absolute=f"{_IN_MS} image, decoding included, on each study's own device, and the deviation from its own converged "
    "run.",
    best="lowest deviation",
    own=", and PSNR and deviation are to its own converged run",
)
_OF_EPISODES = CompareWording(
    scale=FAILURES,
    run=EPISODES.run,
    box=EPISODES.box,
    on_log="failures on a logarithmic scale",
    errors=EPISODES.errors,
    axes=f"{_AXES} the share of failed episodes over the default run's own in the same episodes; where none fails, "
    "half a failure is assumed. The absolute axes, and every hypervolume, take the failures as they are.",
    absolute=f"{_IN_MS} run of the sampler, on each study's own device, and the episodes that succeed.",
    best="highest success",
    own="",
)
_OF_BOTH = CompareWording(
    scale=ERRORS,
    run=f"{IMAGES.run} or {EPISODES.run}",
    box=("an error of 1", "an error of 0.001"),
    on_log="errors on a logarithmic scale",
    errors="error",
    axes=f"{_AXES} error over the default run's own on the same prompts or episodes. The error of images is their "
    "deviation from the converged run, that of a policy the share of failed episodes, half a failure where none fails: "
    "different things, which only the relation to the own default run brings together.",
    absolute=f"{_IN_MS} image or per run of the sampler, on each study's own device, and the error.",
    best="lowest error",
    own=", and PSNR and deviation are to its own converged run",
)


def compare_wording(scale: ErrorScale) -> CompareWording:
    """The words for contenders whose errors have this scale in common."""
    return next(words for words in (_OF_IMAGES, _OF_EPISODES, _OF_BOTH) if words.scale == scale)
