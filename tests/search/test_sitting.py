import pytest

from autotune.search.sitting import Sitting


@pytest.mark.parametrize(
    ("start_up_s", "load", "expected"),
    [(2.0, 0.5, 3.0), (5.0, 1.0, 3.5), (20.0, 1.0, 5.6), (20.0, 4.0, 11.2), (20.0, 9.0, 16.0), (90.0, 1.0, 8.5)],
)
def test_time_for_the_report_follows_the_load(
    start_up_s: float, load: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert Sitting(writes_report=True).report_s(start_up_s) == pytest.approx(expected)
    assert Sitting(writes_report=False).report_s(start_up_s) == 0.0
