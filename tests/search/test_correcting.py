"""Studies that also try front members corrected: what is corrected and when, and that searches stay as they were."""

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.budget import Budget
from autotune.search.correcting import EVERY, CorrectingSearcher
from autotune.search.families import make_searcher
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.study_record import StudyRecord

from .conftest import CALIBRATION
from .onlooker import MakePlan, RunStudy


def result(proposal: Proposal, evaluator: TabulatedEvaluator) -> Result:
    return Result(proposal=proposal, outcome=evaluator.score(proposal.schedule, CALIBRATION))


def test_every_few_proposals_the_newest_uncorrected_member_is_corrected(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    plain = make_searcher("ecad", context, 0)
    searcher = CorrectingSearcher(make_searcher("ecad", context, 0), context, "ecad")
    seen: list[Proposal] = []
    for _ in range(4 * (EVERY + 1)):
        (proposal,) = searcher.ask(1)
        if proposal.schedule.tables:
            assert proposal.label.endswith(", cache corrected")
            assert len(seen) % (EVERY + 1) == EVERY
            bases = [p.schedule for p in seen]
            assert proposal.schedule.without_tables in bases
        else:
            assert plain.ask(1) == [proposal]  # the other search is not disturbed
        seen.append(proposal)
        told = [result(proposal, evaluator)]
        searcher.tell(told)
        plain.tell(told)
    corrected = [p for p in seen if p.schedule.tables]
    assert len(corrected) == 4
    assert len({p.schedule.without_tables for p in corrected}) == 4


def test_a_study_with_corrections_resumes_as_if_it_had_not_stopped(plan: MakePlan, undisturbed: RunStudy) -> None:
    def told(record: StudyRecord) -> list[tuple[str, str]]:
        return [(candidate.schedule_hash, candidate.label) for candidate in record.candidates]

    def until(n: int, name: str) -> StudyRecord:
        return undisturbed(plan(correct=True, budget=Budget(evaluations=n), rival_share=3.0 / n), name)

    whole = until(24, "whole")
    until(14, "parts")
    assert told(until(24, "parts")) == told(whole)
    assert any(candidate.schedule.tables for candidate in whole.candidates)
