import dataclasses

import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator, small_flux_condition, small_flux_inventory
from autotune.search.fewer_steps import RECIPES, FewerStepsSearcher
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity

FIDELITY = Fidelity(name="calibration", prompts=("a cat",), seeds=(0,))


def all_proposals(context: SearchContext, evaluator: TabulatedEvaluator | None = None) -> list[Proposal]:
    searcher, proposals = FewerStepsSearcher(context), []
    while asked := searcher.ask(1):
        proposals += asked
        failure = Failure(kind=FailureKind.NAN, reason="")
        outcome = failure if evaluator is None else evaluator.score(asked[0].schedule, FIDELITY)
        searcher.tell([Result(proposal=asked[0], outcome=outcome)])
    return proposals


def test_own_sampler_comes_first_then_every_recipe_at_half_the_steps(context: SearchContext) -> None:
    labels = [p.label for p in FewerStepsSearcher(context).ask(4 + len(RECIPES))]
    assert labels[:4] == [f"own sampler, {n} steps" for n in (10, 5, 14, 7)]
    assert all(label.endswith("10 steps") for label in labels[4:])
    assert labels[4] == "dpmpp-2m, own grid, 10 steps"


def test_the_best_recipe_at_half_the_steps_goes_on_first(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    labels = [p.label for p in all_proposals(context, evaluator)]
    following = labels[4 + len(RECIPES) :][:2]
    assert {label.split(",")[0] for label in following} == {"unipc-3"}  # the highest order of the formula


def test_all_combinations_are_tried_once_even_if_all_fail(context: SearchContext) -> None:
    proposals = all_proposals(context)
    counts = {4, 5, 6, 7, 8, 10, 12, 14, 16, 20}
    assert {p.schedule.n_steps for p in proposals} == counts
    # The own sampler at 20 steps is the baseline; four steps leave unipc-3 no room for its third order, on two grids.
    assert len(proposals) == len(counts) * (len(RECIPES) + 1) - 1 - 2
    assert len({p.schedule_hash for p in proposals}) == len(proposals)


def test_every_grid_begins_at_the_starting_noise_level(context: SearchContext) -> None:
    context = dataclasses.replace(context, condition=dataclasses.replace(context.condition, start_timestep=990.0))
    times = [p.schedule.time for p in all_proposals(context) if p.schedule.time is not None]
    assert times
    assert {time[0] for time in times} == {990.0}


def test_samplers_that_call_more_often_than_they_step_have_no_own_grid() -> None:
    inventory = small_flux_inventory()
    context = SearchContext(
        condition=small_flux_condition(inventory),
        inventory=inventory,
        own_timesteps=lambda n: tuple(1000.0 - t for t in range(n + 1)),
    )
    assert not any("own grid" in p.label for p in all_proposals(context))


@pytest.mark.parametrize("n_steps", [1, 2, 4, 9, 50])
def test_never_more_steps_than_the_default(n_steps: int) -> None:
    inventory = small_flux_inventory()
    evaluator = TabulatedEvaluator(small_flux_condition(inventory, n_steps), inventory)
    context = SearchContext(condition=evaluator.condition, inventory=inventory, own_timesteps=evaluator.own_timesteps)
    proposals = all_proposals(context, evaluator)
    assert max(p.schedule.n_steps for p in proposals) == n_steps
    assert not any(p.schedule.time is None and p.schedule.n_steps == n_steps for p in proposals)
