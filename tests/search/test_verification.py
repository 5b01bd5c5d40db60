from dataclasses import replace

from tests.spaces.hand_made import record

from autotune.search.verification import verification_order
from autotune.spaces.front import RIVAL, calibration_front, pick
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.study_record import Candidate

# a front whose cheap end is crowded with members that are as good as alike, and whose right half holds three
CROWDED = [(0.1 + 0.001 * i, 0.9 - 0.001 * i) for i in range(30)]
SPREAD = [(0.3, 0.3), (0.5, 0.1), (0.8, 0.02)]


def volume(members: tuple[Candidate, ...]) -> float:
    measured = [m for c in members if (m := c.calibration.measurement) is not None]
    return front_hypervolume([m.latency_ms[0] / 100.0 for m in measured], [m.error for m in measured])


def test_members_that_add_most_hypervolume_are_verified_first() -> None:
    study = record([(1.0, 0.01), *CROWDED, *SPREAD])
    front = calibration_front(study)
    order = verification_order(study, max_members=6)
    chosen = (*order.first, *order.others)
    assert len(front) == 34
    assert len(chosen) == 6
    assert {c.number for c in pick(front, study, unverified=True).values()} <= {c.number for c in order.first}
    assert {31, 32, 33} <= {c.number for c in chosen}
    assert volume(chosen) > 0.99 * volume(front)
    few = verification_order(study, max_members=5).others
    assert [c.number for c in order.others][: len(few)] == [c.number for c in few]


def test_each_pick_is_followed_by_the_best_of_fewer_steps_at_no_more_cost() -> None:
    front = [(0.2, 0.3), (0.4, 0.1), (0.6, 0.02)]
    rivals = [(0.25, 0.5), (0.3, 0.4), (0.45, 0.25), (0.5, 0.2), (0.7, 0.15)]
    study = record([(1.0, 0.01), *front, *rivals])
    study = replace(study, candidates=tuple(replace(c, family=RIVAL) if c.number > 3 else c for c in study.candidates))
    picks = {c.number for c in pick(calibration_front(study), study, unverified=True).values()}
    assert len(picks) > 1
    order = verification_order(study, max_members=len(picks))
    best = {1: set(), 2: {5}, 3: {7}, 0: {8}}  # none is as cheap as the first
    assert {c.number for c in order.others} == set().union(*(best[number] for number in picks))
    assert not {c.number for c in order.first} - picks - {0}
