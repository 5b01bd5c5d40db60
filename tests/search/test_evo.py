"""EVO-style evolution: what its sets obey, its operators, and that it improves on its seeds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.evaluators.small_flux import small_flux_inventory
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.archive import ParetoArchive
from autotune.search.bac import SHARES
from autotune.search.evo import LATE_POWERS, EvoSearcher, evolution_seeds, importance, random_positions
from autotune.search.gene_grid import GeneGrid
from autotune.search.refresh_variation import RefreshSetVariation, fresh_at
from autotune.search.searcher import Result, SearchContext, Searcher
from autotune.spaces.blockwise_plan import fresh_units
from autotune.spaces.cache_unit import cache_units

from .conftest import CALIBRATION

INVENTORY = small_flux_inventory(1, 2)
N_CALLS = 9
VARIATION = RefreshSetVariation(grid=GeneGrid.of(INVENTORY, N_CALLS))
N_UNITS = len(cache_units(INVENTORY))
N_POSITIONS = (N_CALLS - 1) * N_UNITS
N_LATE = len(SHARES) * len(LATE_POWERS)


def always(whole_units: float, shift: float = 0.0) -> RefreshSetVariation:
    return RefreshSetVariation(
        grid=VARIATION.grid,
        crossover_probability=1.0,
        whole_units_probability=whole_units,
        mutation_probability=1.0,
        shift_probability=shift,
    )


ALWAYS = always(0.0)

sets = st.frozensets(st.integers(0, N_POSITIONS - 1))


def drive(searcher: Searcher, evaluator: TabulatedEvaluator, n: int) -> list[Result]:
    results: list[Result] = []
    while len(results) < n and (asked := searcher.ask(1)):
        outcome = evaluator.score(asked[0].schedule, CALIBRATION)
        results.append(Result(proposal=asked[0], outcome=outcome))
        searcher.tell(results[-1:])
    return results


@given(chosen=sets)
def test_a_genome_stands_for_its_set(chosen: frozenset[int]) -> None:
    genome = VARIATION.genome(np.array(sorted(chosen), int))
    assert VARIATION.positions(genome).tolist() == sorted(chosen)
    assert fresh_units(genome, INVENTORY)[0].all()
    schedule = VARIATION.grid.schedule(genome, N_CALLS)
    again = VARIATION.grid.genome(schedule)
    assert again is not None
    assert VARIATION.positions(again).tolist() == sorted(chosen)


@given(first=sets, second=sets, seed=st.integers(0, 2**32 - 1))
def test_a_child_is_of_its_parents_and_of_a_size_between_theirs(
    first: frozenset[int], second: frozenset[int], seed: int
) -> None:
    one, other = (ALWAYS.genome(np.array(sorted(chosen), int)) for chosen in (first, second))
    before = one.copy(), other.copy()
    child = set(ALWAYS.positions(ALWAYS.crossover(one, other, np.random.default_rng(seed))).tolist())
    assert min(len(first), len(second)) <= len(child) <= max(len(first), len(second))
    assert child <= first | second
    assert first & second <= child or len(child) < len(first | second)
    assert all(np.array_equal(a, b) for a, b in zip((one, other), before, strict=True))


@given(first=sets, second=sets, seed=st.integers(0, 2**32 - 1))
def test_every_second_crossover_takes_all_of_a_unit_from_one_parent(
    first: frozenset[int], second: frozenset[int], seed: int
) -> None:
    one, other = (ALWAYS.genome(np.array(sorted(chosen), int)) for chosen in (first, second))
    child = fresh_units(always(1.0).crossover(one, other, np.random.default_rng(seed)), INVENTORY)
    parents = [fresh_units(genome, INVENTORY) for genome in (one, other)]
    for u in range(N_UNITS):
        assert any(np.array_equal(child[:, u], parent[:, u]) for parent in parents)


def test_a_long_run_refreshes_all_in_its_last_call() -> None:
    long = RefreshSetVariation(grid=GeneGrid.of(INVENTORY, 100))
    assert long.n_positions == 98 * N_UNITS
    assert fresh_units(long.genome(np.array([], int)), INVENTORY)[[0, -1]].all()
    assert not fresh_units(VARIATION.genome(np.array([], int)), INVENTORY)[-1].any()


@given(chosen=sets, seed=st.integers(0, 2**32 - 1))
def test_a_mutation_replaces_two_to_six(chosen: frozenset[int], seed: int) -> None:
    genome = ALWAYS.genome(np.array(sorted(chosen), int))
    mutant = set(ALWAYS.positions(ALWAYS.mutate(genome, np.random.default_rng(seed))).tolist())
    assert len(mutant) == len(chosen)
    most = min(6, len(chosen), N_POSITIONS - len(chosen))
    assert min(2, most) <= len(mutant - chosen) <= most


@given(chosen=sets, seed=st.integers(0, 2**32 - 1))
def test_a_shift_moves_refreshes_of_one_call_or_one_unit_by_few_calls(chosen: frozenset[int], seed: int) -> None:
    genome = ALWAYS.genome(np.array(sorted(chosen), int))
    mutant = set(
        always(0.0, shift=1.0).positions(always(0.0, 1.0).mutate(genome, np.random.default_rng(seed))).tolist()
    )
    assert len(mutant) <= len(chosen)
    gone, new = ([divmod(p, N_UNITS) for p in sorted(some)] for some in (chosen - mutant, mutant - chosen))
    assert len({call for call, _ in gone}) <= 1 or len({unit for _, unit in gone}) == 1
    for call, unit in new:
        assert any(unit == other and 1 <= abs(call - before) <= 3 for before, other in gone)


def test_operators_act_at_their_rates() -> None:
    rng = np.random.default_rng(0)
    first, second = (VARIATION.genome(rng.choice(N_POSITIONS, 12, replace=False)) for _ in range(2))
    crossed = np.mean([not np.array_equal(VARIATION.crossover(first, second, rng), first) for _ in range(1000)])
    mutated = np.mean([not np.array_equal(VARIATION.mutate(first, rng), first) for _ in range(1000)])
    assert 0.75 < crossed < 0.85
    assert 0.45 < mutated < 0.65


def test_seeds_are_plans_of_bac_late_refreshes_and_random_sets_in_turns(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    long = TabulatedEvaluator(replace(evaluator.condition, n_steps=100))
    context = replace(
        context, condition=long.condition, own_timesteps=long.own_timesteps,
        branch_tables=lambda: long.branch_tables(CALIBRATION, 1),
    )  # fmt: skip
    made = evolution_seeds(context, 3)
    seeds = [next(made) for _ in range(4 * N_LATE + 180)]
    turns, later = seeds[: 4 * N_LATE], seeds[4 * N_LATE :]
    for (first, _), (second, _), (late, plan), _ in zip(*[iter(turns)] * 4, strict=True):
        assert first.startswith("BAC, ")
        assert second.startswith("BAC, ")
        assert "dense late" in late
        assert plan.cache is not None
        fresh = fresh_units(plan.cache.table, context.inventory)
        assert (fresh.all(axis=1) == fresh.any(axis=1)).all()  # whole calls
        assert f"{fresh.all(axis=1).sum()} of 100 calls" in late
        gaps = np.diff(np.flatnonzero(fresh.all(axis=1)))
        assert gaps[0] >= 1.5 * gaps[-1]
        assert fresh[[0, -1]].all()
    assert all(label.startswith("BAC, ") for i, (label, _) in enumerate(later) if i % 3 < 2)
    random = [*turns[3::4], *later[2::3]]
    assert all(label.startswith("random refreshes") for label, _ in random)
    assert 0.6 < np.mean(["by importance" in label for label, _ in random]) < 0.8
    for _, schedule in random:
        assert schedule.cache is not None
        fresh = fresh_units(schedule.cache.table, context.inventory)
        assert fresh[[0, -1]].all()
        assert fresh[1:-1].sum(axis=0).min() >= 4


def test_important_positions_are_drawn_more_often(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    weights = importance(evaluator.branch_tables(CALIBRATION, 1))
    n_units = len(cache_units(context.inventory))
    assert weights.shape == (context.n_calls - 1, n_units)
    assert weights.max() == 1.0
    assert weights.min() >= 0.005
    rng = np.random.default_rng(0)
    drawn = np.zeros(weights.shape)
    for _ in range(300):
        drawn += fresh_at(random_positions(context, 0.2, weights, rng), context.n_calls, n_units)[1:]
    assert np.corrcoef(drawn.ravel(), weights.ravel())[0, 1] > 0.5
    uniform = np.zeros(weights.shape)
    for _ in range(300):
        uniform += fresh_at(random_positions(context, 0.2, None, rng), context.n_calls, n_units)[1:]
    assert uniform.min() > 0.5 * uniform.mean()


@pytest.mark.parametrize("seed", range(2))
def test_evolution_improves_on_its_seeds(seed: int, context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    def hypervolume(results: list[Result]) -> float:
        archive = ParetoArchive(("latency", "deviation"))
        for result in results:
            archive.add(result)
        return archive.hypervolume

    evolved = drive(EvoSearcher(context, seed), evaluator, 300)
    assert hypervolume(evolved) > hypervolume(evolved[:50]) + 0.002


def test_without_tables_random_sets_are_uniform_and_the_search_goes_on(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    results = drive(EvoSearcher(replace(context, branch_tables=None), 0), evaluator, 80)
    labels = [result.proposal.label for result in results]
    sets = [label for label in labels[:50] if label.startswith("random refreshes, ")]
    assert len(sets) >= 20
    assert not any("importance" in label for label in sets)
    assert any("dense late" in label for label in labels[:50])
    assert labels[-1].startswith("evolved")
