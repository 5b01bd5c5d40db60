import dataclasses

import pytest

from autotune.evaluators.small_flux import small_flux_condition, small_flux_inventory
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.fewer_steps import N_FIRST, RECIPES, FewerStepsSearcher, coarse_counts, step_counts
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


def test_the_beginning_shows_the_own_sampler_and_a_curve_of_the_best_first_recipe(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    labels = [p.label for p in all_proposals(context, evaluator)]
    assert labels[:2] == ["own sampler, 10 steps", "own sampler, 5 steps"]
    assert all(label.endswith("10 steps") for label in labels[2 : 2 + N_FIRST])
    curve = labels[2 + N_FIRST :][:3]
    assert [label.split(", ")[2] for label in curve] == ["5 steps", "14 steps", "7 steps"]
    assert len({label.rsplit(", ", 1)[0] for label in curve}) == 1
    assert curve[0].startswith("unipc-2")  # the formula likes order 2 with a corrector best of the first recipes


@pytest.mark.parametrize(
    ("default", "expected"), [(20, [10, 5, 14, 7]), (40, [20, 10, 30, 14]), (100, [20, 10, 30, 14])]
)
def test_a_long_default_run_is_cut_to_where_quality_falls(default: int, expected: list[int]) -> None:
    assert coarse_counts(step_counts(default), default) == expected


def test_the_best_recipes_of_two_grids_go_on_first(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    labels = [p.label for p in all_proposals(context, evaluator)]
    following = [label.split(", ") for label in labels[2 + len(RECIPES) + 3 :][:2]]
    assert {solver for solver, _, _ in following} == {"unipc-3"}
    assert len({grid for _, grid, _ in following}) == 2


def test_all_combinations_are_tried_once_even_if_all_fail(context: SearchContext) -> None:
    proposals = all_proposals(context)
    counts = {4, 5, 6, 7, 8, 10, 12, 14, 16, 20}
    assert {p.schedule.n_steps for p in proposals} == counts
    # The own sampler at 20 steps is the baseline; four steps leave unipc-3 no room for its third order, on three grids.
    assert len(proposals) == len(counts) * (len(RECIPES) + 1) - 1 - 3
    assert len({p.schedule_hash for p in proposals}) == len(proposals)


def test_every_grid_begins_at_the_starting_noise_level(context: SearchContext) -> None:
    context = dataclasses.replace(context, condition=dataclasses.replace(context.condition, start_timestep=990.0))
    times = [p.schedule.time for p in all_proposals(context) if p.schedule.time is not None]
    assert times
    assert {time[0] for time in times} == {990.0}


def test_a_sampler_that_calls_more_often_than_it_steps_gets_even_spacing() -> None:
    inventory = small_flux_inventory()
    context = SearchContext(
        condition=small_flux_condition(inventory),
        inventory=inventory,
        own_timesteps=lambda n: tuple(1000.0 - t for t in range(n + 1)),
    )
    times = {p.label: p.schedule.time for p in all_proposals(context)}
    assert times["ab2, own grid, 5 steps"] == pytest.approx((1000.0, 800.0, 600.0, 400.0, 200.0))


def test_the_halfway_grid_lies_between_the_others(context: SearchContext) -> None:
    times = {p.label: p.schedule.time for p in all_proposals(context)}
    own, even, halfway = (times[f"unipc-2, {g}, 8 steps"] for g in ("own grid", "uniform lambda", "halfway grid"))
    assert own is not None
    assert even is not None
    assert halfway is not None
    assert halfway == pytest.approx([(a + b) / 2 for a, b in zip(own, even, strict=True)])
    assert even[-1] == pytest.approx(own[-1] / 4)


@pytest.mark.parametrize("n_steps", [1, 2, 4, 9, 50])
def test_never_more_steps_than_the_default(n_steps: int) -> None:
    inventory = small_flux_inventory()
    evaluator = TabulatedEvaluator(small_flux_condition(inventory, n_steps), inventory)
    context = SearchContext(condition=evaluator.condition, inventory=inventory, own_timesteps=evaluator.own_timesteps)
    proposals = all_proposals(context, evaluator)
    assert max(p.schedule.n_steps for p in proposals) == n_steps
    assert not any(p.schedule.time is None and p.schedule.n_steps == n_steps for p in proposals)
