"""What a report says of results: images beside those of a converged run, or episodes that succeed or fail."""

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.spaces.error_scale import DEVIATIONS, FAILURES, ErrorScale


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Words and parts of sentences that depend on which error the results of a study have.

    `scale` has the metric that people read, the key of a row's figure, and the units that it is of; `others` are
    further figures, with headings. `errors` names the error in a heading, `axis` on its axis in full; `floor` says
    where a result without any stands on it. `result` tells one figure, and of how many episodes it is, `shift` those of
    the default run on calibration and held-out units, `reference` what figures are held against. `box` are the corners
    of the hypervolume's box. `shown` says in what order pictures come and what stands below them, `captions` what
    stands beside them. `program` is what runs in production, `run` what a latency is of, `size` how large it is.
    `least` is what makes the rival of a bench, `alike` says that a schedule does in all units as another.
    """

    scale: ErrorScale
    others: Mapping[str, str]
    errors: str
    axis: str
    floor: str
    result: str
    shift: str
    reference: str
    box: tuple[str, str]
    shown: str
    captions: str
    program: str
    run: str
    size: str
    least: str
    alike: str

    @property
    def metric(self) -> str:
        """The metric that people read."""
        return self.scale.metric

    @property
    def units(self) -> str:
        """What the values of a measurement are of, in the plural."""
        return self.scale.units

    @property
    def unit(self) -> str:
        """One of them."""
        return self.units.removesuffix("s")

    @property
    def held_up(self) -> str:
        """What the columns `held up` and `over-fit` of a front's table say."""
        return (
            f"Held up is what the values on held-out {self.units} say of a member, at 95 %: it is supported if every "
            "other measured schedule is measurably worse in something, unsupported if another is measurably better, "
            f"else unclear. Over-fit is how much worse it does there than the calibration {self.units} promised, "
            "beyond what the default run does, which nothing was chosen for."
        )


IMAGES = Wording(
    scale=DEVIATIONS,
    others={"psnr": "PSNR (dB)", "ssim": "SSIM", "alignment": "alignment"},
    errors="deviation",
    axis="deviation from the converged reference",
    floor="",
    result="with a deviation of {} from the converged run",
    shift="The default run deviates by {} on the calibration prompts and by {} on the held-out ones",
    reference="Deviation and PSNR are against the converged reference.",
    box=("deviation 1", "deviation 0.001"),
    shown="First comes the prompt on which a pick is farthest from the converged run; below each image stands its "
    "deviation.",
    captions="figures are deviations",
    program="makes images",
    run="image",
    size="{width} x {height}",
    least="least deviation",
    alike="deviates as {} does on every prompt",
)
EPISODES = Wording(
    scale=FAILURES,
    others={"action-error": "action error"},
    errors="failures",
    axis="episodes that succeed, log of failures",
    floor=" Where no episode fails, half a failure is assumed on this scale.",
    result="with {} of {} episodes succeeding",
    shift="The default run succeeds in {} of the calibration episodes and in {} of the held-out ones",
    reference="Success is the share of episodes; the action error is against the default run's actions.",
    box=("no success", "a success of 99.9 %"),
    shown="First come the episodes in which a pick fails; below each stands how it ended.",
    captions="the words say how it ended",
    program="runs the policy",
    run="chunk",
    size="{height} actions of {width} numbers",
    least="highest success",
    alike="ends every episode as {} does",
)


def wording(scale: ErrorScale) -> Wording:
    """The words for results of a scale."""
    return EPISODES if scale.is_share else IMAGES
