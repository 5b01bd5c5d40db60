import numpy as np
import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.screening import MIN_PREDICTED, Guess, Screening
from autotune.search.searcher import SearchContext
from autotune.search.table_encoding import TableEncoding
from autotune.search.table_variation import TableVariation
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solvers import make_solver

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))


def drawn(context: SearchContext, n: int, seed: int = 0) -> list[Schedule]:
    """A random walk over whole schedules."""
    rng, variation = np.random.default_rng(seed), TableVariation(context)
    noise = context.condition.noise_schedule
    base = [
        Schedule(n_steps=k, time=context.own_timesteps(k), solver=make_solver("unipc-2", k, noise)) for k in (6, 10, 14)
    ]
    found: list[Schedule] = list(base)
    while len(found) < n:
        parent = found[int(rng.integers(len(found)))]
        moves = (variation.vary_cache, variation.vary_solver, variation.spread_refreshes, variation.change_steps)
        try:
            child = moves[int(rng.integers(len(moves)))](parent, rng)
            child = canonical_schedule(child, context.inventory)
        except ScheduleError:
            continue
        if child not in found:
            found.append(child)
    return found


def test_all_schedules_have_encodings_of_one_length_and_different_ones_differ(context: SearchContext) -> None:
    encoding = TableEncoding(context)
    schedules = [Schedule(n_steps=20), Schedule(n_steps=7), *drawn(context, 40)]
    codes = [encoding.encode(schedule) for schedule in schedules]
    there = [code for code in codes if code is not None]
    assert len(there) == len(codes)
    assert len({len(code) for code in there}) == 1
    assert len({code.tobytes() for code in there}) > 0.9 * len(there)


def test_a_plan_that_leaves_out_more_is_told_apart_by_where_and_how(context: SearchContext) -> None:
    encoding, variation = TableEncoding(context), TableVariation(context)
    plain = Schedule(n_steps=20)
    cached = variation.spread_refreshes(plain, np.random.default_rng(0))
    one, other = encoding.encode(plain), encoding.encode(cached)
    assert one is not None
    assert other is not None
    assert (other >= one).all()
    assert (other > one).sum() >= 5


def test_predictions_are_trusted_once_they_have_ranked_changes_right(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    screening = Screening(context)
    schedules = drawn(context, 160)
    for i, schedule in enumerate(schedules):
        outcome = evaluator.score(schedule, FIDELITY)
        assert isinstance(outcome, Measurement)
        predicted = screening.predict([schedule])
        guess = None if predicted is None else Guess(value=predicted[0], cost=outcome.relative_macs)
        screening.note(schedule, float(np.log10(outcome.mean("deviation"))), guess)
        if i < 19 + MIN_PREDICTED:
            assert not screening.is_trusted
    assert screening.tau > 0.3
    assert screening.is_trusted


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_not_trusted(context: SearchContext, seed: int) -> None:
    screening, rng = Screening(context, seed), np.random.default_rng(seed)
    schedules = drawn(context, 80, seed)
    for schedule in schedules:
        predicted = screening.predict([schedule])
        guess = None if predicted is None else Guess(value=predicted[0], cost=schedule.n_steps / 20.0)
        # A trend along the cost, which anybody can predict, and noise.
        screening.note(schedule, -0.2 * schedule.n_steps + float(rng.standard_normal()), guess)
    assert not screening.is_trusted
