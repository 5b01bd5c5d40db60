"""What a study is to do."""

from dataclasses import dataclass, field

from autotune.search.budget import Budget
from autotune.search.families import check_family
from autotune.search.ladder import LadderSettings
from autotune.search.verification import VerificationSettings
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.objective import Constraint
from autotune.spaces.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The choices of one study.

    `rival_share` is the part of the budget that goes to `fewer-steps`, which comes before `family`. The seeds of
    `held_out` must not be among those of `calibration`. `given` are labels and canonical schedules to try first.
    With `correct`, cache schedules of the front are tried corrected beside the search of `family`.
    """

    name: str
    family: str
    calibration: Fidelity
    held_out: Fidelity
    budget: Budget
    objectives: tuple[str, ...] = ("latency", "deviation")
    constraints: tuple[Constraint, ...] = ()
    seed: int = 0
    correct: bool = False
    rival_share: float = 0.25
    verification: VerificationSettings = field(default_factory=VerificationSettings)
    ladder: LadderSettings = field(default_factory=LadderSettings)
    given: tuple[tuple[str, Schedule], ...] = ()

    def __post_init__(self) -> None:
        check_family(self.family)
        shared = set(self.calibration.seeds) & set(self.held_out.seeds)
        if shared:
            raise UsageError(
                f"the seeds of the held-out prompts must differ from those of the calibration; both have "
                f"{sorted(shared)[:5]}; choose other seeds for one of them"
            )
