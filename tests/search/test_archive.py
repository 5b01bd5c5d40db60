import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.archive import ParetoArchive
from autotune.search.searcher import Proposal, Result
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity
from autotune.spaces.objective import parse_constraint
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.schedule import Schedule

FIDELITY = Fidelity(name="calibration", prompts=("a cat",), seeds=(0,))


def result(n_steps: int) -> Result:
    proposal = Proposal(schedule=Schedule(n_steps=n_steps), family="fewer-steps", label=f"{n_steps}")
    return Result(proposal=proposal, outcome=TabulatedEvaluator().score(proposal.schedule, FIDELITY))


def test_archive_keeps_the_front_and_its_hypervolume() -> None:
    archive = ParetoArchive(("macs", "deviation"))
    results = [result(n) for n in (20, 10, 5)]
    assert [archive.add(r) for r in results] == [True, True, True]
    measurements = [r.measurement for r in results if r.measurement is not None]
    expected = front_hypervolume([m.relative_macs for m in measurements], [m.mean("deviation") for m in measurements])
    assert archive.hypervolume == pytest.approx(expected)
    assert [p.label for p in archive.members] == ["20", "10", "5"]
    assert archive.measurements == tuple(measurements)


def test_archive_refuses_failures_copies_and_what_breaks_a_constraint() -> None:
    archive = ParetoArchive(("latency", "deviation"), [parse_constraint("deviation<=0.05")])
    assert archive.add(result(10))
    assert not archive.add(result(10))
    assert not archive.add(result(4))
    failure = Failure(kind=FailureKind.TIMEOUT, reason="slow")
    assert not archive.add(Result(proposal=result(7).proposal, outcome=failure))
    assert len(archive) == 1
