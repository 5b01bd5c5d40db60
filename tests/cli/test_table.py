from collections.abc import Callable
from pathlib import Path

from autotune.spaces.evaluation import Measurement
from autotune.spaces.recorded_table import read_table

from .place import N_EVALUATIONS, Finished, Place


def test_a_study_is_written_as_a_table(small: Place, call: Callable[..., Finished], tmp_path: Path) -> None:
    path = tmp_path / "small.gz"
    done = call("export-table", "small", "-o", path, "--storage", small.storage)
    assert (done.code, done.out) == (0, f"wrote {path}, {N_EVALUATIONS} schedules\n")
    table = read_table(path)
    assert table.condition.model == "mini-flux"
    assert table.fidelity.prompts == ("a photo of a cat", "a photo of a dog")
    assert all(isinstance(row.outcome, Measurement) for row in table.rows)


def test_an_unknown_study_or_database_is_an_error(small: Place, call: Callable[..., Finished]) -> None:
    done = call("export-table", "smal", "-o", "a.gz", "--storage", small.storage)
    assert done.code == 1
    assert "small" in done.err
    assert call("export-table", "small", "-o", "a.gz", "--storage", "none.db").code == 1
    assert not Path("a.gz").exists()
