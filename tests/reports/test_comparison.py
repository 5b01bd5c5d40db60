"""The figures of a comparison against what a plain look at the records gives."""

import dataclasses
import itertools
from statistics import median

import pytest

from autotune.reports.compare_notes import FIELD, condition_table, notes
from autotune.reports.comparison import compare, difference_table, hypervolume_table
from autotune.reports.contender import UNION
from autotune.reports.equal_levels import AS_DEFAULT, equal_quality_table, equal_speed_table
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import BASELINE, calibration_front, study_front
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.study_record import Candidate, StudyRecord

from .twin import twin, without_held_out


@pytest.fixture(scope="module")
def better(record: StudyRecord) -> StudyRecord:
    return twin(record, "better", cost=0.9, deviation=0.8)


@pytest.fixture(scope="module")
def elsewhere(record: StudyRecord) -> StudyRecord:
    return twin(record, "elsewhere", model="mini-pixart", device="another card")


def held_out(candidate: Candidate) -> Measurement:
    assert candidate.held_out is not None
    assert candidate.held_out.measurement is not None
    return candidate.held_out.measurement


def volume(measurements: list[Measurement]) -> float:
    return float(
        front_hypervolume([m.relative_latency for m in measurements], [m.mean("deviation") for m in measurements])
    )


def test_hypervolume_is_that_of_the_held_out_front_within_its_interval(
    record: StudyRecord, better: StudyRecord
) -> None:
    for row, study in zip(hypervolume_table(compare([record, better])).rows, (record, better), strict=True):
        members = [held_out(c) for c in study_front(study)]
        assert row["hypervolume"] == pytest.approx(volume(members))
        assert (row["members"], row["source"], row["prompts"]) == (len(members), "held-out", 24)
        low, high = row["intervals"]["hypervolume"]  # type: ignore[index]
        assert low < row["hypervolume"] < high


def test_a_rival_that_was_not_all_measured_again_stands_whole_at_its_calibration_values(
    record: StudyRecord, better: StudyRecord
) -> None:
    """Those of the rival that the front beats have no held-out values; leaving them out would flatter the front."""
    comparison = compare([record, better])
    row = hypervolume_table(comparison).rows[0]
    rivals = [m for c in calibration_front(record, "fewer-steps") if (m := c.calibration.measurement)]
    front = [m for c in calibration_front(record) if (m := c.calibration.measurement)]
    assert row["fewer_steps"] == pytest.approx(volume(rivals))
    assert row["gain"] == pytest.approx(volume(front) - volume(rivals))
    low, high = row["intervals"]["gain"]  # type: ignore[index]
    assert low < row["gain"] < high
    text = " ".join(notes(comparison))
    n_verified = sum(c.held_out is not None for c in calibration_front(record, "fewer-steps"))
    assert 0 < n_verified < len(rivals)
    assert f"{n_verified} of {len(rivals)} of mini-flux-first" in text
    assert "calibration values" in text or "values of the calibration prompts" in text


def test_a_study_differs_by_nothing_from_its_twin_and_surely_from_a_better_one(
    record: StudyRecord, better: StudyRecord
) -> None:
    rows = difference_table(compare([record, twin(record, "twin"), better])).rows
    assert [(row["first"], row["second"]) for row in rows] == list(
        itertools.combinations(["mini-flux-first", "twin", "better"], 2)
    )
    assert rows[0]["difference"] == 0.0
    assert rows[0]["intervals"] == {"difference": [0.0, 0.0]}
    for row in rows[1:]:
        low, high = row["intervals"]["difference"]  # type: ignore[index]
        assert low < row["difference"] < high < 0.0


def test_other_conditions_or_prompts_have_no_difference(
    record: StudyRecord, elsewhere: StudyRecord, search_only: StudyRecord
) -> None:
    comparison = compare([record, elsewhere])
    assert difference_table(comparison).rows == []
    assert "No two studies share condition and prompts" in " ".join(notes(comparison))
    assert "The devices differ" in " ".join(notes(comparison))
    table = condition_table(comparison)
    assert table is not None
    assert [row[FIELD] for row in table.rows] == ["model", "device"]
    on_calibration = compare([record, dataclasses.replace(search_only, name="searched")])
    assert difference_table(on_calibration).rows == []
    text = " ".join(notes(on_calibration))
    assert "searched has no held-out values" in text
    assert "measured on different prompts" in text


def test_what_was_minimised_otherwise_is_said(record: StudyRecord, better: StudyRecord) -> None:
    other = dataclasses.replace(better, settings={**better.settings, "objectives": ["macs", "deviation"]})
    assert "better minimised macs, deviation: its front was not chosen by latency" in " ".join(
        notes(compare([record, other]))
    )


@pytest.mark.parametrize("absolute", [False, True])
def test_levels_show_the_first_measured_member_that_reaches_them(
    record: StudyRecord, better: StudyRecord, absolute: bool
) -> None:
    comparison = compare([record, better])
    fronts = {study.name: [(c, held_out(c)) for c in study_front(study)] for study in (record, better)}
    rows = equal_quality_table(comparison, absolute=absolute).rows
    assert {row["level"] for row in rows} >= {AS_DEFAULT, "PSNR >= 30 dB", "deviation <= 0.05"}
    for row in rows:
        metric, sign, level = str(row["level"]).split()[:3]
        name = metric.lower()
        if row["level"] == AS_DEFAULT:
            name, sign, level = "deviation", "<=", str(held_out(record.candidates[0]).mean("deviation"))
        fit = [
            (m.relative_latency, c.schedule_hash)
            for c, m in fronts[str(row["name"])]
            if (m.mean(name) >= float(level) if sign == ">=" else m.mean(name) <= float(level))
        ]
        assert row["schedule_hash"] == (min(fit)[1] if fit else None)
        assert row["speedup"] == (pytest.approx(1.0 / min(fit)[0]) if fit else None)
    rows = equal_speed_table(comparison, absolute=absolute).rows
    assert len(rows) > 4
    for row in rows:
        limit = float(str(row["level"]).strip("<>= xms"))
        fit = [
            (m.mean("deviation"), c.schedule_hash)
            for c, m in fronts[str(row["name"])]
            if (median(m.latency_ms) <= limit if absolute else 1.0 / m.relative_latency >= limit)
        ]
        assert row["schedule_hash"] == (min(fit)[1] if fit else None)
        assert row["deviation"] == (min(fit)[0] if fit else None)


def test_members_without_held_out_values_are_left_out_and_counted(record: StudyRecord, better: StudyRecord) -> None:
    partly = without_held_out(record, {study_front(record)[0].number})
    front = study_front(partly)
    comparison = compare([partly, better])
    row = hypervolume_table(comparison).rows[0]
    assert (row["members"], row["front"]) == (len(front) - 1, len(front))
    assert (
        f"{len(front) - 1} of {len(front)} front members, on 24 prompts; the other 1 are left out"
        in notes(comparison)[0]
    )


def test_psnr_levels_need_psnr_everywhere(record: StudyRecord, deviation_only: StudyRecord) -> None:
    table = equal_quality_table(compare([record, dataclasses.replace(deviation_only, name="bare")]), absolute=False)
    assert table.rows
    assert not any(str(row["level"]).startswith("PSNR") for row in table.rows)
    alone = equal_quality_table(compare([deviation_only, twin(deviation_only, "twin")]), absolute=False)
    assert not any(key.endswith("psnr") for key in alone.columns)


def test_families_of_one_study_are_held_against_each_other_on_the_same_prompts(record: StudyRecord) -> None:
    """Only the common front was measured again, so the families stand at calibration values, all of them."""
    comparison = compare([record])
    rows = {str(row["name"]): row for row in hypervolume_table(comparison).rows}
    assert list(rows) == [UNION, "cache-masks", "ecad", "fewer-steps"]
    assert {row["source"] for row in rows.values()} == {"calibration"}
    for name, row in rows.items():
        own = [c for c in record.whole if c.family == name or (name == UNION and c.family != BASELINE)]
        assert row["hypervolume"] == pytest.approx(volume([m for c in own if (m := c.calibration.measurement)]))
    union = [row for row in difference_table(comparison).rows if row["first"] == UNION]
    assert len(union) == 3
    assert all(row["difference"] >= 0.0 for row in union)  # type: ignore[operator]
    names = {row["name"] for row in equal_quality_table(comparison, absolute=False).rows}
    assert names == {"cache-masks", "ecad", "fewer-steps"}
    assert condition_table(comparison) is None


def test_families_stand_at_held_out_values_where_all_have_them(record: StudyRecord) -> None:
    kept = tuple(c for c in record.candidates if c.held_out is not None)
    rows = hypervolume_table(compare([dataclasses.replace(record, candidates=kept)])).rows
    assert {(row["source"], row["prompts"]) for row in rows} == {("held-out", 24)}


def test_the_searches_within_a_joint_one_are_families_of_their_own(record: StudyRecord) -> None:
    def joint(candidate: Candidate) -> Candidate:
        arm = "tables" if candidate.number % 2 else "s3"
        changed = dataclasses.replace(candidate, family="joint", label=f"{arm}: {candidate.label}")
        return changed if candidate.family == "ecad" else candidate

    study = dataclasses.replace(record, candidates=tuple(map(joint, record.candidates)))
    names = [row["name"] for row in hypervolume_table(compare([study])).rows]
    assert names == [UNION, "cache-masks", "fewer-steps", "joint: s3", "joint: tables"]


def test_what_can_not_be_compared_is_refused(record: StudyRecord, better: StudyRecord) -> None:
    with pytest.raises(UsageError, match="'better' was given 2 times"):
        compare([better, record, better])
    bare = dataclasses.replace(record, name="bare", settings={"constraints": ["deviation<=1e-9"]})
    for studies in ([bare], [record, bare]):
        with pytest.raises(UsageError, match="'bare' has none yet, or none keeps its constraints"):
            compare(studies)
    with pytest.raises(UsageError, match="nothing but its default run"):
        compare([dataclasses.replace(record, candidates=record.candidates[:1])])
