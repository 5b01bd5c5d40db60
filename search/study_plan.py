"""What a study is to do."""

from dataclasses import dataclass, field

from autotune.search.budget import Budget
from autotune.search.families import FAMILIES, check_family
from autotune.search.given import FAMILY as GIVEN
from autotune.search.ladder import LadderSettings
from autotune.search.policies import FAMILY as POLICIES
from autotune.search.progress import Phase
from autotune.search.verification import VerificationSettings
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.front import RIVAL
from autotune.spaces.granularity import Granularity
from autotune.spaces.objective import Constraint
from autotune.spaces.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The choices of one study.

    `rival_share` is the part of the budget that goes to `fewer-steps`, which comes before `family`, and `policy_share`
    that of `policies`, which come before it where it decides a cache and does not try them itself. The seeds of
    `held_out` must not be among those of `calibration`. `given` are labels and canonical schedules to try first.
    With `correct`, cache schedules of the front are tried corrected beside the search of `family`; None leaves that to
    the family, False keeps it from correcting. `granularity` is
    that of `ecad`.
    """

    name: str
    family: str
    calibration: Fidelity
    held_out: Fidelity
    budget: Budget
    objectives: tuple[str, ...] = ("latency", "deviation")
    constraints: tuple[Constraint, ...] = ()
    seed: int = 0
    correct: bool | None = None
    rival_share: float = 0.25
    policy_share: float = 0.05
    verification: VerificationSettings = field(default_factory=VerificationSettings)
    ladder: LadderSettings = field(default_factory=LadderSettings)
    given: tuple[tuple[str, Schedule], ...] = ()
    granularity: Granularity = Granularity.COMPONENTS

    def __post_init__(self) -> None:
        check_family(self.family)
        shared = set(self.calibration.seeds) & set(self.held_out.seeds)
        if shared:
            raise UsageError(
                f"the seeds of the held-out prompts must differ from those of the calibration; both have "
                f"{sorted(shared)[:5]}; choose other seeds for one of them"
            )


def study_phases(plan: StudyPlan) -> list[tuple[str, Phase, float]]:
    """The families that a study tries, in order, each with its phase and its share of the budget."""
    columns, phases = FAMILIES[plan.family].columns, {GIVEN: Phase.GIVEN, RIVAL: Phase.FEWER_STEPS}
    shares = {GIVEN: 1.0} if plan.given else {}
    shares[RIVAL] = plan.rival_share
    evaluations = plan.budget.evaluations
    has_room = evaluations is None or plan.policy_share * evaluations >= 1.0
    if "cache" in columns and "policy" not in columns and has_room:
        phases[POLICIES] = Phase.POLICIES
        shares[POLICIES] = plan.policy_share
    shares[plan.family] = 1.0
    return [(name, phases.get(name, Phase.SEARCH), share) for name, share in shares.items()]
