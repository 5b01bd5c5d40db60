"""What a report says of results: images beside those of a converged run, or episodes that succeed or fail."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from autotune.spaces.error_scale import DEVIATIONS, ERRORS, FAILURES, ErrorScale


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Words and parts of sentences that depend on which error the results have.

    `scale` has the metric that people read and the units that it is of; `others` are further figures, with headings.

    Of one study: `axis` names the error axis in full, `floor` says where a result without any error stands on it.
    `result` tells one figure, `shift` those of the default run on calibration and held-out units, `reference` what
    figures are held against. `box` are the corners of the hypervolume's box, `on_log` its scale. `shown` says in what
    order pictures come and what stands below them, `captions` what stands beside them. `program` is what runs in
    production, `run` what a latency is of.

    Of several: `relative` is what is divided by the default run's own, `axes` explains it, `absolute` the other axes.
    `best` is who wins at equal speed, `least` what makes the rival of a bench, `alike` says that a schedule does in all
    units as another. `own` says what figures of different conditions are relative to.
    """

    scale: ErrorScale
    others: Mapping[str, str] = field(default_factory=dict)
    axis: str
    floor: str
    result: str
    shift: str
    reference: str
    box: tuple[str, str]
    on_log: str
    shown: str
    captions: str
    program: str
    run: str
    relative: str
    axes: str
    absolute: str
    best: str
    least: str
    alike: str
    own: str

    @property
    def metric(self) -> str:
        """The metric that people read, which is the key of a row's figure."""
        return self.scale.metric

    @property
    def units(self) -> str:
        """What the values of a measurement are of, in the plural."""
        return self.scale.units

    @property
    def unit(self) -> str:
        """One of them."""
        return " or ".join(word.removesuffix("s") for word in self.units.split(" or "))


_AXES = "Normalised axes: latency over that of the study's own default run, measured in turn with it, and"

_IMAGES = Wording(
    scale=DEVIATIONS,
    others={"psnr": "PSNR (dB)", "ssim": "SSIM", "alignment": "alignment"},
    axis="deviation from the converged reference",
    floor="",
    result="with a deviation of {} from the converged run",
    shift="The default run deviates by {} on the calibration prompts and by {} on the held-out ones",
    reference="Deviation and PSNR are against the converged reference.",
    box=("deviation 1", "deviation 0.001"),
    on_log="deviation on a logarithmic scale",
    shown="First comes the prompt on which a pick is farthest from the converged run; below each image stands its "
    "deviation.",
    captions="figures are deviations",
    program="makes images",
    run="image",
    relative="deviation",
    axes=f"{_AXES} deviation over the default run's own on the same prompts. A default run of more steps lies nearer "
    "to the converged one, so its 1 asks for more; the absolute axes, and every hypervolume, take the deviation as it "
    "is.",
    absolute="Milliseconds per image, decoding included, on each study's own device, and the deviation from its own "
    "converged run.",
    best="lowest deviation",
    least="least deviation",
    alike="deviates as {} does on every prompt",
    own=", and PSNR and deviation are to its own converged run",
)
_EPISODES = Wording(
    scale=FAILURES,
    others={"action-error": "action error"},
    axis="episodes that succeed, failures on a logarithmic scale",
    floor=" Where no episode fails, half a failure is assumed on this scale.",
    result="with {} of the episodes succeeding",
    shift="The default run succeeds in {} of the calibration episodes and in {} of the held-out ones",
    reference="Success is the share of episodes; the action error is against the default run's actions.",
    box=("no success", "a success of 99.9 %"),
    on_log="failures on a logarithmic scale",
    shown="First come the episodes in which a pick fails; below each stands how it ended.",
    captions="the words say how it ended",
    program="runs the policy",
    run="run",
    relative="failures",
    axes=f"{_AXES} the share of failed episodes over the default run's own in the same episodes; where none fails, "
    "half a failure is assumed. The absolute axes, and every hypervolume, take the failures as they are.",
    absolute="Milliseconds per run of the sampler, on each study's own device, and the episodes that succeed.",
    best="highest success",
    least="highest success",
    alike="ends every episode as {} does",
    own="",
)
_BOTH = Wording(
    scale=ERRORS,
    axis="error: deviation, or share of failed episodes",
    floor=_EPISODES.floor,
    result="with an error of {}",
    shift="The default run has an error of {} on the calibration prompts and of {} on the held-out ones",
    reference="Deviation and PSNR are against each study's own converged run; success is the share of episodes.",
    box=("an error of 1", "an error of 0.001"),
    on_log="errors on a logarithmic scale",
    shown=_IMAGES.shown,
    captions="figures are errors",
    program="runs the model",
    run="image or run",
    relative="error",
    axes=f"{_AXES} error over the default run's own on the same prompts or episodes. The error of images is their "
    "deviation from the converged run, that of a policy the share of failed episodes, half a failure where none fails: "
    "different things, which only the relation to the own default run brings together.",
    absolute="Milliseconds per image or per run of the sampler, on each study's own device, and the error.",
    best="lowest error",
    least="least error",
    alike="has the errors of {}",
    own=", and PSNR and deviation are to its own converged run",
)


def wording(scale: ErrorScale) -> Wording:
    """The words for results of a scale."""
    return next(words for words in (_IMAGES, _EPISODES, _BOTH) if words.scale == scale)
