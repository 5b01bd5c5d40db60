import dataclasses
from pathlib import Path

import pytest

from autotune.reports.table_export import make_table, write_table
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Failure
from autotune.spaces.recorded_table import read_table
from autotune.spaces.study_record import StudyRecord

PROMPTS = [f"prompt {i}" for i in range(8)]


@pytest.fixture
def described(record: StudyRecord) -> StudyRecord:
    """The study with its calibration prompts among the settings, as a real one has them."""
    return dataclasses.replace(record, settings={**record.settings, "calibration": PROMPTS})


def test_every_candidate_is_a_row_with_its_calibration_result(described: StudyRecord, tmp_path: Path) -> None:
    assert write_table(described, tmp_path / "study.gz") == len(described.candidates)
    table = read_table(tmp_path / "study.gz")
    assert table.condition == described.condition
    assert table.inventory == described.inventory
    assert (table.fidelity.prompts, table.fidelity.seeds) == (tuple(PROMPTS), tuple(range(8)))
    for row, candidate in zip(table.rows, described.candidates, strict=True):
        assert (row.family, row.label, row.schedule) == (candidate.family, candidate.label, candidate.schedule)
        assert row.outcome == candidate.calibration.outcome
    assert any(isinstance(row.outcome, Failure) for row in table.rows)


def test_a_study_without_prompts_or_results_has_no_table(record: StudyRecord, described: StudyRecord) -> None:
    with pytest.raises(UsageError, match="the settings of 'mini-flux-first' hold none"):
        make_table(record)
    with pytest.raises(UsageError, match="at least one finished candidate; 'mini-flux-first' has none"):
        make_table(dataclasses.replace(described, candidates=()))
