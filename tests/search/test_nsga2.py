import random
import time
from typing import Any

import numpy as np
import pytest
from deap import base, tools
from hypothesis import given
from hypothesis import strategies as st

from autotune.search.nsga2 import LARGE, Individual, Ranked, survivors, tournament


def individual(*values: float, violation: float = 0.0) -> Individual[np.ndarray]:
    return Individual(genome=np.zeros((1, 1), bool), values=values, violation=violation)


class Carrier:
    def __init__(self, individual: Individual[np.ndarray], fitness: Any) -> None:
        self.individual = individual
        self.fitness = fitness


def survivors_by_deap(individuals: list[Individual[np.ndarray]], size: int) -> list[Ranked[np.ndarray]]:
    """DEAP's own selection, with the ranks of its own sort."""
    fitness = type("Fitness", (base.Fitness,), {"weights": (-1.0,) * len(individuals[0].values)})
    carriers = [Carrier(m, fitness(np.clip(m.values, -LARGE, LARGE).tolist())) for m in individuals]
    chosen = tools.selNSGA2(carriers, min(size, len(carriers)))
    fronts = tools.sortNondominated(chosen, len(chosen))
    rank_of = {id(carrier): rank for rank, front in enumerate(fronts) for carrier in front}
    return [Ranked(individual=c.individual, rank=rank_of[id(c)], crowding=c.fitness.crowding_dist) for c in chosen]


values = st.integers(0, 6).map(float) | st.just(float("inf")) | st.floats(0.0, 6.0)
populations = st.integers(1, 4).flatmap(lambda m: st.lists(st.tuples(*[values] * m), min_size=1, max_size=30))


@given(populations, st.integers(1, 32))
def test_selection_is_that_of_deap_to_the_order_of_equals(population: list[tuple[float, ...]], size: int) -> None:
    members = [individual(*row) for row in population]
    expected = survivors_by_deap(members, size)
    selected = survivors(members, size)
    assert [id(m.individual) for m in selected] == [id(m.individual) for m in expected]
    assert [(m.rank, m.crowding) for m in selected] == [(m.rank, m.crowding) for m in expected]


@pytest.mark.parametrize("n_objectives", [2, 3])
def test_selection_is_that_of_deap_in_a_large_population(n_objectives: int) -> None:
    rows = np.random.default_rng(0).integers(0, 40, (200, n_objectives)).astype(float)
    members = [individual(*row) for row in rows.tolist()]
    expected = survivors_by_deap(members, 150)
    selected = survivors(members, 150)
    assert [id(m.individual) for m in selected] == [id(m.individual) for m in expected]
    assert [(m.rank, m.crowding) for m in selected] == [(m.rank, m.crowding) for m in expected]


def test_time_of_selection_grows_less_than_quadratically() -> None:
    def seconds(n: int) -> float:
        members = [individual(*row) for row in np.random.default_rng(0).random((n, 2)).tolist()]
        times = []
        for _ in range(3):
            began = time.process_time()
            survivors(members, n - 4)
            times.append(time.process_time() - began)
        return min(times)

    assert seconds(3000) < 40 * seconds(300)  # a hundred times as many pairs


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
