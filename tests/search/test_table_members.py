"""Studies that also try front members with tables: which and when, and that searches stay as they were."""

from dataclasses import replace
from pathlib import Path

import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.reports.export import make_schedule_file
from autotune.search.budget import Budget
from autotune.search.families import make_searcher
from autotune.search.precision_choice import wants_precision
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.search.table_members import EVERY, EVERY_IF_NEEDED, TableMembersSearcher
from autotune.spaces.column_fit import PRECISIONS, FitColumn
from autotune.spaces.errors import StorageError
from autotune.spaces.objective import parse_constraint
from autotune.spaces.schedule import schedule_hash
from autotune.spaces.schedule_file import load_schedule_file, save_schedule_file
from autotune.spaces.study_record import Candidate, StudyRecord

from .conftest import CALIBRATION
from .onlooker import MakePlan, RunStudy


def result(proposal: Proposal, evaluator: TabulatedEvaluator) -> Result:
    return Result(proposal=proposal, outcome=evaluator.score(proposal.schedule, CALIBRATION))


def test_every_few_proposals_the_newest_uncorrected_member_is_corrected(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    plain = make_searcher("ecad", context, 0)
    searcher = TableMembersSearcher(make_searcher("ecad", context, 0), context, "ecad", correct=True)
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


def test_schedules_with_tables_are_credited_to_an_arm_of_their_own(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    about_weights = replace(context, objectives=("macs", "deviation", "weights"))
    inner = make_searcher("joint", about_weights, 0)
    searcher = TableMembersSearcher(inner, about_weights, "joint", correct=True, quantize=True)
    labels: set[str] = set()
    for _ in range(4 * (EVERY + 1)):
        (proposal,) = searcher.ask(1)
        if proposal.schedule.tables and proposal.label.endswith(("corrected", "A8")):
            labels.add(proposal.label)
        searcher.tell([result(proposal, evaluator)])
    assert {label.partition(": ")[0] for label in labels} == {"corrections", "bits"}
    assert not any(": " in label.partition(": ")[2] for label in labels)


def test_corrections_and_precisions_take_turns_where_weights_count_and_none_loses_a_table(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    about_weights = replace(context, objectives=("macs", "deviation", "weights"))
    assert wants_precision(about_weights)
    assert not wants_precision(context)
    for limit in ("weights_gb<=1", "bit-operations<=0.1"):
        assert wants_precision(replace(context, constraints=(parse_constraint(limit),)))
    inner = make_searcher("ecad", about_weights, 0)
    searcher = TableMembersSearcher(inner, about_weights, "ecad", correct=True, quantize=True)
    with_tables: list[Proposal] = []
    for _ in range(8 * (EVERY + 1)):
        (proposal,) = searcher.ask(1)
        with_tables += [proposal] if proposal.schedule.tables else []
        searcher.tell([result(proposal, evaluator)])
    endings = [proposal.label.rsplit(", ")[-1] for proposal in with_tables]
    assert set(endings[::2]) == {"cache corrected"}
    assert set(endings[1::2]) <= {str(column).upper() for column in PRECISIONS}
    for proposal in with_tables:
        kept = proposal.schedule.quantization is None or "corrected" not in proposal.label.rsplit(", ")[-1]
        assert kept or proposal.schedule.cache_correction


@pytest.mark.parametrize(("limit", "every"), [("weights<=0.9", EVERY_IF_NEEDED), ("weights<=1", EVERY)])
def test_schedules_are_quantized_more_often_where_no_other_keeps_to_the_limit(
    context: SearchContext, evaluator: TabulatedEvaluator, limit: str, every: int
) -> None:
    about = replace(context, constraints=(parse_constraint(limit),))
    searcher = TableMembersSearcher(make_searcher("ecad", about, 0), about, "ecad", quantize=True)
    places = []
    for place in range(3 * (every + 1)):
        (proposal,) = searcher.ask(1)
        places += [place] if proposal.schedule.quantization else []
        searcher.tell([result(proposal, evaluator)])
    assert places[:2] == [every, 2 * every + 1] if limit == "weights<=0.9" else places == []


def test_a_study_with_corrections_resumes_as_if_it_had_not_stopped(
    plan: MakePlan, undisturbed: RunStudy, tmp_path: Path
) -> None:
    def told(record: StudyRecord) -> list[tuple[str, str]]:
        return [(candidate.schedule_hash, candidate.label) for candidate in record.candidates]

    def until(n: int, name: str) -> StudyRecord:
        return undisturbed(
            plan(correct=True, budget=Budget(evaluations=n), rival_share=3.0 / n, policy_share=0.0), name
        )

    whole = until(24, "whole")
    until(14, "parts")
    assert told(until(24, "parts")) == told(whole)
    check_export(whole, next(c for c in whole.candidates if c.schedule.tables), tmp_path / "s.json")


@pytest.mark.parametrize(("family", "correct"), [("cachequant", None), ("cachequant", False), ("joint", False)])
def test_a_family_corrects_of_its_own_unless_it_must_not(
    family: str, correct: bool | None, plan: MakePlan, undisturbed: RunStudy
) -> None:
    studied = plan(family=family, correct=correct, budget=Budget(evaluations=30), rival_share=0.1, policy_share=0.0)
    cached = [c.schedule for c in undisturbed(studied, family).candidates if c.schedule.cache is not None]
    assert len(cached) > 3
    assert any(schedule.cache_correction is not None for schedule in cached) == (correct is None)


def check_export(record: StudyRecord, candidate: Candidate, path: Path) -> None:
    """The table, which in a tabulated fit is a text of the right SHA-256, goes into a file beside the schedule's."""
    table = f"{FitColumn.CACHE_CORRECTION}{schedule_hash(candidate.schedule.without_tables)}".encode()
    names: list[str] = []

    def load(name: str) -> bytes:
        names.append(name)
        return table

    save_schedule_file(path, make_schedule_file(record, candidate, load))
    digest = candidate.schedule.cache_correction
    assert names == [f"table/{record.condition.hash}/{digest}"]
    assert load_schedule_file(path).tables == {digest: table}
    with pytest.raises(StorageError, match="must be among the artifacts, and is not"):
        make_schedule_file(record, candidate, lambda name: None)
