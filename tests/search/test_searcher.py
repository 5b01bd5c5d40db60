import numpy as np

from autotune.evaluators.small_flux import small_flux_inventory
from autotune.search.searcher import Novelty, Proposal
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.schedule import Schedule

INVENTORY = small_flux_inventory()


def plan(*reused: tuple[int, int]) -> Schedule:
    table = np.zeros((20, len(INVENTORY)), bool)
    for row, site in reused:
        table[row, site] = True
    return Schedule(n_steps=20, cache=CachePlan.from_array(table))


def test_what_was_admitted_or_marked_is_not_admitted_again() -> None:
    novelty = Novelty(INVENTORY)
    assert novelty.admit(plan((1, 0)), family="random", label="a") is not None
    assert novelty.admit(plan((1, 0)), family="random", label="b") is None
    told = Proposal(schedule=plan((2, 0)), family="ecad", label="c")
    novelty.mark(told)
    assert novelty.admit(told.schedule, family="random", label="d") is None
    admitted = novelty.admit(plan((3, 0)), family="random", label="e")
    assert admitted == Proposal(schedule=plan((3, 0)), family="random", label="e")


def test_schedules_that_compute_the_same_are_one() -> None:
    novelty = Novelty(INVENTORY)
    admitted = novelty.admit(plan((0, 0), (1, 0)), family="random", label="a")
    assert admitted is not None
    assert admitted.schedule == plan((1, 0))
    assert novelty.admit(plan((1, 0)), family="random", label="b") is None


def test_what_does_not_fit_the_model_is_not_admitted() -> None:
    narrow = Schedule(n_steps=20, cache=CachePlan.from_array(np.ones((20, 3))))
    assert Novelty(INVENTORY).admit(narrow, family="random", label="a") is None
