import pytest

from autotune.search.budget import Budget, Spent, parse_duration
from autotune.spaces.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2m", 120.0),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1.5h", 5400.0),
        (" 2m ", 120.0),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["2 hours", "-1", "0", "", " ", "0s", "0h0m", "30m1h", "1e3s", "nan", "inf", "90", "h", "-2m"]
)
def test_bad_durations_are_one_clear_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"a duration .*got .*"):
        parse_duration(text)


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"wall_s": 0.0},
        {"wall_s": -1.0},
        {"wall_s": float("nan")},
        {"evaluations": 0},
        {"evaluations": -1},
        {"evaluations": True},
        {"evaluations": 2.5},
        {"network_calls": 0},
    ],
)
def test_bad_budgets_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Budget(**limits)  # type: ignore[arg-type]


def test_the_first_limit_stops() -> None:
    budget = Budget(wall_s=100.0, evaluations=10, network_calls=1000)
    assert budget.allows(Spent(wall_s=50.0, evaluations=9, network_calls=999))
    assert not budget.allows(Spent(evaluations=10))
    assert not budget.allows(Spent(network_calls=1000))
    assert not budget.allows(Spent(wall_s=100.0))
    assert budget.used_fraction(Spent(wall_s=50.0, evaluations=9, network_calls=100)) == 0.9


def test_time_is_kept_free_for_the_next_candidate_and_the_end() -> None:
    budget = Budget(wall_s=100.0)
    assert budget.allows(Spent(wall_s=70.0), next_s=10.0, reserve_s=20.0)
    assert not budget.allows(Spent(wall_s=70.1), next_s=10.0, reserve_s=20.0)
