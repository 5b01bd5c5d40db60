"""What is run of a model, and how the results are judged: images for prompts, or episodes of a policy."""

from collections.abc import Sequence
from typing import Protocol

from autotune.evaluators.energy import EnergyMeter
from autotune.evaluators.image_workload import ImageWorkload
from autotune.evaluators.load import LoadedModel
from autotune.evaluators.metrics import RewardModel
from autotune.evaluators.policy.workload import PolicyWorkload, is_policy
from autotune.evaluators.sampling import Purpose, Samples
from autotune.spaces.condition import Condition
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule


class Workload(Protocol):
    """Runs of one model; the schedule is on its pipeline by then.

    `identity` tells how results are judged, as part of the protocol; it may be empty. Where `converges`, the reference
    is a run that any sampler comes closer to with more steps, and columns can be fitted to it.
    """

    identity: str
    converges: bool

    def reference_schedule(self, condition: Condition) -> Schedule:
        """The run that deviations are measured from."""
        ...

    def run(
        self,
        fidelity: Fidelity,
        n_steps: int,
        purpose: Purpose,
        *,
        timeout_s: float | None = None,
        meter: EnergyMeter | None = None,
    ) -> Samples:
        """The samples of a fidelity, prompt i from the noise of seed i.

        Raises:
            Deadline: `timeout_s` has passed at the start of a network call.
        """
        ...

    def quality(self, samples: Samples, reference: Samples, fidelity: Fidelity) -> dict[str, tuple[float, ...]]:
        """The values by metric, one per prompt, of samples that were made to be scored."""
        ...


def make_workload(model: LoadedModel, rewards: Sequence[RewardModel] = ()) -> Workload:
    """The workload of a model; `rewards` judge its images too.

    Raises:
        UsageError: it is a policy, and its simulator is not installed, or rewards are asked for.
    """
    if not is_policy(model.pipe):
        return ImageWorkload(model, rewards)
    if rewards:
        raise UsageError(
            f"{' and '.join(reward.name for reward in rewards)} judge images; a policy has success and action-error: "
            "leave the metric out"
        )
    return PolicyWorkload(model)
