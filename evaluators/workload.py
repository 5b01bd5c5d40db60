"""What is run of a model, and how the results are judged: images for prompts, or episodes of a policy."""

from enum import Enum, auto
from typing import Protocol

from autotune.evaluators.energy import EnergyMeter
from autotune.evaluators.sampling import Samples
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule


class Purpose(Enum):
    """What a run is for: images are drawn in the same way for all, of a policy more or less is run."""

    TIMED = auto()
    """Its cost: pipeline calls as production makes them."""

    LATENTS = auto()
    """Its final latents, as many at once as is quick."""

    SCORED = auto()
    """All that a schedule is judged by."""


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
