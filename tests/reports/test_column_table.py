"""What the columns are worth, from hand-made replays."""

import pytest

from autotune.reports.column_table import column_rows, column_table, pick_table
from autotune.spaces.ablation import Removal
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import pick, study_front
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.study_record import Candidate, StudyRecord

from .twin import failed_removal, removal


def volume(measurements: list[Measurement]) -> float:
    return float(
        front_hypervolume([m.relative_latency for m in measurements], [m.mean("deviation") for m in measurements])
    )


@pytest.fixture(scope="module")
def members(record: StudyRecord) -> list[Candidate]:
    """Three members with solver and cache."""
    return [c for c in study_front(record) if c.schedule.cache is not None and c.schedule.time is not None][:3]


def own(candidate: Candidate) -> Measurement:
    assert candidate.held_out is not None
    assert candidate.held_out.measurement is not None
    return candidate.held_out.measurement


def rest(made: Removal) -> Measurement:
    assert made.evaluation is not None
    assert made.evaluation.measurement is not None
    return made.evaluation.measurement


def test_each_column_is_worth_the_hypervolume_that_goes_with_it(record: StudyRecord, members: list[Candidate]) -> None:
    """All lose by the cache's removal, two of them differ by the solver's; guidance is used by none."""
    removals = [removal(c, "cache", cost=1.5) for c in members]
    removals += [removal(c, "solver", deviation=3.0) for c in members[:2]]
    rows = {row["column"]: row for row in column_rows(record, removals)}
    before = volume([own(c) for c in members])
    without_cache = volume([rest(made) for made in removals[:3]])
    without_solver = volume([rest(removals[3]), rest(removals[4]), own(members[2])])
    for column, after, used in (("cache", without_cache, 3), ("solver", without_solver, 2), ("guidance", before, 0)):
        row = rows[column]
        assert (row["members"], row["used"], row["left_out"]) == (3, used, 0)
        assert row["with"] == pytest.approx(before)
        assert row["without"] == pytest.approx(after)
        assert row["worth"] == pytest.approx(before - after)
        low, high = row["intervals"]["worth"]  # type: ignore[index]
        assert low <= row["worth"] <= high
    assert rows["guidance"]["intervals"] == {"worth": [0.0, 0.0]}
    assert rows["cache"]["worth"] > 0.0  # type: ignore[operator]


def test_what_means_nothing_or_is_not_measured_counts_on_neither_side(
    record: StudyRecord, members: list[Candidate]
) -> None:
    first, second, third = members
    open_one = Removal(member=second.schedule_hash, column="solver", schedule_hash="x", key="x")
    meaningless = Removal(member=first.schedule_hash, column="solver", reason="the own sampler calls 21 times")
    removals = [meaningless, open_one, removal(third, "solver", deviation=2.0)]
    row = column_rows(record, removals)[0]
    assert (row["column"], row["members"], row["used"], row["left_out"]) == ("solver", 3, 3, 2)
    assert row["with"] == pytest.approx(volume([own(third)]))
    assert row["without"] == pytest.approx(volume([rest(removals[2])]))
    table = column_table(record, removals)
    assert table is not None
    text = " ".join(table.notes)
    assert "the own sampler calls 21 times" in text
    assert "not measured yet" in text


def test_a_member_that_fails_without_a_column_adds_nothing(record: StudyRecord, members: list[Candidate]) -> None:
    removals = [failed_removal(members[0], "cache"), removal(members[1], "cache")]
    row = next(row for row in column_rows(record, removals) if row["column"] == "cache")
    assert row["with"] == pytest.approx(volume([own(members[0]), own(members[1])]))
    assert row["without"] == pytest.approx(volume([own(members[1])]))


def test_picks_stand_beside_themselves_without_each_column(record: StudyRecord) -> None:
    picks = pick(study_front(record), record)
    quality = picks["quality"]
    made = removal(quality, "cache", cost=2.0)
    table = pick_table(record, [made, failed_removal(quality, "solver")])
    assert table is not None
    solver, cache = table.rows
    assert "quality" in str(cache["pick"])
    assert cache["speedup"] == pytest.approx(2.0 * cache["without_speedup"])  # type: ignore[operator]
    assert cache["deviation"] == cache["without_deviation"] == own(quality).mean("deviation")
    assert "fails" in str(solver["title"])
    assert table.texts()[0]["without_speedup"] == "-"


def test_no_replay_no_table(record: StudyRecord) -> None:
    assert column_rows(record, ()) == []
    assert column_table(record, ()) is None
    assert pick_table(record, ()) is None
