import random

import numpy as np
import pytest

from autotune.search.nsga2 import Individual, survivors, tournament


def individual(*values: float, violation: float = 0.0) -> Individual:
    return Individual(genome=np.zeros((1, 1), bool), values=values, violation=violation)


def test_survivors_are_the_better_ranks() -> None:
    front = [individual(0.0, 2.0), individual(1.0, 1.0), individual(2.0, 0.0)]
    behind = [individual(1.5, 1.5), individual(3.0, 3.0)]
    kept = survivors([*behind, *front], 4)
    assert {m.individual.values for m in kept[:3]} == {m.values for m in front}
    assert kept[3].individual.values == (1.5, 1.5)
    assert [m.rank for m in kept] == [0, 0, 0, 1]


def test_crowded_members_leave_first() -> None:
    line = [individual(x, 1.0 - x) for x in (0.0, 0.49, 0.5, 0.51, 1.0)]
    kept = {m.individual.values[0] for m in survivors(line, 3)}
    assert {0.0, 1.0} <= kept
    assert 0.5 not in kept


def test_feasible_beats_infeasible_and_less_broken_beats_more() -> None:
    members = [individual(0.0, 0.0, violation=2.0), individual(0.1, 0.1, violation=0.5), individual(9.0, 9.0)]
    assert [m.individual.violation for m in survivors(members, 3)] == [0.0, 0.5, 2.0]
    assert [m.individual.violation for m in survivors(members[:2], 1)] == [0.5]


def test_infinite_objectives_do_not_spoil_the_crowding() -> None:
    members = [
        individual(0.0, float("inf")),
        individual(0.5, 0.5),
        individual(float("-inf"), 0.4),
        individual(1.0, 0.1),
    ]
    assert not any(np.isnan(m.crowding) for m in survivors(members, 4))


@pytest.mark.parametrize("n_objectives", [1, 2, 3])
def test_any_number_of_objectives(n_objectives: int) -> None:
    rng = np.random.default_rng(0)
    members = [individual(*rng.random(n_objectives).tolist()) for _ in range(20)]
    assert len(survivors(members, 7)) == 7


def test_tournaments_prefer_the_better_and_leave_the_global_random_state_alone() -> None:
    population = survivors([individual(float(i), float(i)) for i in range(10)], 10)
    random.seed(3)
    before = random.getstate()
    rng = np.random.default_rng(0)
    winners = [tournament(population, rng).values[0] for _ in range(2000)]
    assert np.mean(winners) == pytest.approx(2.85, abs=0.2)  # mean of the smaller of two draws from 0..9
    assert random.getstate() == before
