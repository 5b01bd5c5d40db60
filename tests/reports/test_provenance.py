import pytest

from autotune.reports.provenance import duration_text, failure_rows, provenance_sections
from autotune.spaces.study_record import StudyRecord


def test_failures_are_grouped_by_kind_and_reason_most_frequent_first(record: StudyRecord) -> None:
    rows = failure_rows(record)
    assert [(row.kind, row.count) for row in rows] == [
        ("out of memory", 4), ("nan", 2), ("invalid", 1), ("timeout", 1)
    ]  # fmt: skip
    assert rows[0].reason == "CUDA out of memory: 1.2 GiB asked for, 0.3 GiB free"
    assert rows[0].examples == ("broken 0", "broken 1", "broken 2")


def test_provenance_names_condition_seed_budget_hardware_and_versions(record: StudyRecord) -> None:
    facts = {name: value for _, rows in provenance_sections(record) for name, value in rows}
    assert facts["seed"] == "0"
    assert facts["budget.wall_s"] == "600.0"
    assert facts["hardware.cpu"] == "a processor"
    assert facts["torch"] == "2.13.0"
    assert facts["scheduler_class"] == "FlowMatchEulerDiscreteScheduler"
    assert facts["condition_hash"] == record.condition.hash
    assert facts["wall_time"] == "7 min 12 s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0.0 s"), (47.6, "48 s"), (59.7, "1 min 0 s"), (723, "12 min 3 s"), (7500, "2 h 5 min")]
)
def test_durations_read_like_speech(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
