"""JSON that people edit: what is refused, by a message and not by an exception of Python."""

import pytest

from autotune.spaces.errors import ScheduleError
from autotune.spaces.strict_json import parse_strict


def test_numbers_are_read_as_they_stand() -> None:
    assert parse_strict("[1, -2, 0.5, 1e3, 12345678901234567890]", remedy="") == [
        1,
        -2,
        0.5,
        1000.0,
        12345678901234567890,
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1e400]", "must be finite; got 1e400"),
        ("[-1e999]", "must be finite; got -1e999"),
        ("[NaN]", "must be finite; got NaN"),
        ("[" + "9" * 400 + "]", "at most 30 digits"),
        ("[" + "9" * 5000 + "]", "at most 30 digits"),
        ("[" * 100_000, "nested too deeply; write it again"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("{", "line 1, column 2 .*; write it again"),
    ],
)
def test_what_no_number_or_object_can_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(ScheduleError, match=said):
        parse_strict(text, remedy="write it again")
