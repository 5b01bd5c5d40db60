import time

import pytest

from autotune.search.clock import SimulatedClock, SystemClock


def test_simulated_time_moves_only_when_told() -> None:
    clock = SimulatedClock()
    assert clock.now() == 0.0
    clock.advance(2.5)
    assert clock.now() == 2.5
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1.0)


def test_system_time_counts_from_its_start() -> None:
    assert 10.0 <= SystemClock(start=time.monotonic() - 10.0).now() < 11.0
    clock = SystemClock()
    first = clock.now()
    assert 0.0 <= first <= clock.now() < 1.0
