import pytest

from autotune.search.budget import Budget, Spent
from autotune.search.spending import Spending


@pytest.mark.parametrize(
    ("before_s", "expected_s"),
    [(20.0, 100.0), (100.0, 35.0), (150.0, 22.5), (240.0, 0.0)],
)
def test_a_slow_start_leaves_some_time_for_the_search(before_s: float, expected_s: float) -> None:
    """Half of four minutes is for the verification; a start that took more than the other half shares the rest."""
    spending = Spending(Budget(wall_s=240.0), lambda: before_s, 1, Spent())
    assert spending.search_s(Spent(wall_s=before_s)) == pytest.approx(expected_s)


def test_a_budget_without_a_time_has_no_end() -> None:
    spending = Spending(Budget(evaluations=10), lambda: 20.0, 1, Spent())
    assert spending.search_s(Spent(wall_s=20.0)) == float("inf")


def test_the_median_of_the_recent_candidates_says_how_long_the_next_one_takes() -> None:
    spending = Spending(Budget(wall_s=100.0), lambda: 0.0, 1, Spent())
    assert spending.next_s(unknown_s=7.0) == 7.0
    spending.note_seconds(9.0)
    spending.note_seconds(2.0)
    assert spending.next_s(unknown_s=7.0) == 9.0
    spending.note_seconds(3.0)
    assert spending.next_s(unknown_s=7.0) == 3.0
    for _ in range(8):
        spending.note_seconds(2.5)
    assert spending.next_s(unknown_s=7.0) == 2.5
