"""What programs read of a command's rows."""

import pytest

from autotune.cli.output import Format, print_rows


def test_csv_has_the_columns_of_all_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Some figures stand in the rows of some schedules only, such as the weights of quantized ones."""
    print_rows([{"a": 1}, {"a": 2, "relative_weights": 0.25}], {}, Format.CSV)
    assert capsys.readouterr().out == "a,relative_weights\n1,\n2,0.25\n"
    print_rows([], {"a": "A"}, Format.CSV)
    assert capsys.readouterr().out == "a\n"
