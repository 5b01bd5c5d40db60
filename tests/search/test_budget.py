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
        {"cost": 10.0},
        {"price_per_hour": 2.0},
        {"cost": -1.0, "price_per_hour": 2.0},
        {"cost": float("inf"), "price_per_hour": 2.0},
        {"evaluations": 5, "price_per_hour": 2.0},
    ],
)
def test_bad_budgets_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Budget(**limits)  # type: ignore[arg-type]


def test_the_first_limit_stops() -> None:
    budget = Budget(wall_s=100.0, evaluations=10, network_calls=1000)
    assert budget.allows(Spent(wall_s=50.0, evaluations=9, network_calls=999))
    assert not budget.allows(Spent(evaluations=10))
    assert not budget.allows(Spent(network_calls=1000), network_calls=1)
    assert budget.used_fraction(Spent(wall_s=50.0, evaluations=9, network_calls=100)) == 0.9


def test_the_time_that_is_left_follows_from_wall_time_and_money() -> None:
    # 5 an hour and worker, for 10: two hours of a worker.
    budget = Budget(wall_s=3000.0, cost=10.0, price_per_hour=5.0)
    assert budget.left_s(Spent(wall_s=1000.0, worker_s=1000.0), n_workers=1) == 2000.0
    assert budget.left_s(Spent(wall_s=1000.0, worker_s=4000.0), n_workers=4) == 800.0
    assert budget.used_fraction(Spent(wall_s=1000.0, worker_s=3600.0)) == 0.5
    assert Budget(evaluations=3).left_s(Spent(wall_s=1e9), n_workers=1) == float("inf")


def test_network_calls_count_before_they_are_made() -> None:
    budget = Budget(network_calls=1000)
    assert budget.allows(Spent(network_calls=900), network_calls=100)
    assert not budget.allows(Spent(network_calls=900), network_calls=101)
