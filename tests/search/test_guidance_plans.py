"""Plans that leave the unconditional branch out, alone and on planned refreshes, with what was recorded and without."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.ecad import EcadSearcher
from autotune.search.guidance_plans import guided_plans
from autotune.search.searcher import SearchContext
from autotune.spaces.cache_plan import cell_use
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.guidance_column import GuidanceAction, check_guidance, fitted_guidance
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

from .test_ecad import pixart_inventory

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))
BOTH, QUADRATIC = GuidanceAction.BOTH, GuidanceAction.QUADRATIC


def recorded_gram(n_calls: int) -> NDArray[np.float64]:
    d = np.random.default_rng(0).normal(size=(n_calls, 200)).cumsum(axis=0).cumsum(axis=0)
    return np.asarray(d @ d.T)


@pytest.fixture
def evaluator() -> TabulatedEvaluator:
    """Guided, of 12 blocks as PixArt's."""
    plain = TabulatedEvaluator()
    return TabulatedEvaluator(replace(plain.condition, guidance_scale=3.0), pixart_inventory(12))


@pytest.fixture
def guided(evaluator: TabulatedEvaluator) -> SearchContext:
    asked: list[EdgeCosts] = []

    def edge_costs() -> EdgeCosts:
        assert not asked, "edges are measured once"
        costs = evaluator.edge_costs(FIDELITY, 1)
        asked.append(replace(costs, guidance_gram=recorded_gram(costs.n_calls)))
        return asked[0]

    return SearchContext(
        condition=evaluator.condition,
        inventory=evaluator.inventory,
        own_timesteps=evaluator.own_timesteps,
        guided=True,
        edge_costs=edge_costs,
    )


def shared(context: SearchContext) -> SearchContext:
    """The context with edges that are measured already."""
    assert context.edge_costs is not None
    costs = context.edge_costs()
    return replace(context, edge_costs=lambda: costs)


def runs_something(schedule: Schedule, inventory: Inventory) -> NDArray[np.bool_]:
    assert schedule.cache is not None
    return np.asarray(cell_use(schedule.cache, inventory).runs[:, list(inventory.outermost)].any(axis=1))


def test_plans_have_no_column_without_a_second_branch_and_no_weights_without_a_recording(
    guided: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    assert list(guided_plans(replace(guided, guided=False))) == []
    alone = list(guided_plans(replace(guided, edge_costs=None)))
    assert [label for label, _ in alone] == [f"both branches in every {n}" for n in (2, 3, 4)]
    unrecorded = guided_plans(replace(guided, edge_costs=lambda: evaluator.edge_costs(FIDELITY, 1)))
    rows = {row for _, schedule in unrecorded for row in schedule.guidance or ()}
    assert rows == {BOTH, GuidanceAction.LINEAR, QUADRATIC}


def test_weights_are_those_that_fit_the_recorded_differences(guided: SearchContext) -> None:
    plans = dict(guided_plans(shared(guided)))
    parabolas = plans["both branches in every 3"].guidance
    assert parabolas is not None
    assert [i for i, row in enumerate(parabolas) if row is BOTH] == [0, 1, 3, 6, 9, 12, 15, 18]
    fitted = plans["both branches in every 3, fitted"].guidance
    assert fitted == fitted_guidance(parabolas, recorded_gram(guided.n_calls))
    assert {len(row) for row in fitted if isinstance(row, tuple)} == {2, 3}


def test_on_a_plan_both_branches_run_in_every_second_refreshed_call_and_never_in_another(guided: SearchContext) -> None:
    planned = [(label, s) for label, s in guided_plans(shared(guided)) if s.cache is not None]
    assert len(planned) >= 12
    assert {label.rsplit(", ", 1)[1] for label, _ in planned} == {"linear", "quadratic", "fitted"}
    for label, schedule in planned:
        assert schedule.guidance is not None
        check_guidance(schedule.guidance)
        runs = np.flatnonzero(runs_something(schedule, guided.inventory)).tolist()
        both = [i for i, row in enumerate(schedule.guidance) if row is BOTH]
        assert both == sorted({*runs[:2], *runs[::2]}), label


def test_evolution_goes_on_from_planned_columns_and_their_weights(
    guided: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    searcher = EcadSearcher(guided, 0)
    seeds = searcher.ask(24)
    columns = {p.label: p.schedule.guidance for p in seeds}
    assert any(label.startswith("planned, ") and column is not None for label, column in columns.items())
    assert "both branches in every 2, fitted" in columns
    for proposal in seeds:
        genome = searcher._grid.genome(proposal.schedule)
        assert genome is not None, proposal.label
        assert searcher._grid.schedule(genome, 20).guidance in (proposal.schedule.guidance, (BOTH,) * 20)
