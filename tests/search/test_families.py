"""What holds for every searcher in the registry."""

import random
import subprocess
import sys

import numpy as np
import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.families import FAMILIES, make_searcher
from autotune.search.searcher import Proposal, Result, SearchContext, Searcher
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity
from autotune.spaces.schedule import canonical_schedule

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))
FAILURE = Failure(kind=FailureKind.OUT_OF_MEMORY, reason="too large")
N = 70
MOST = {
    "cache-plan": 24, "cachequant": 20, "bac": 47, "given": 0, "teacache": 14, "first-block": 28, "magcache": 42,
    "diffusers-caches": 46,
}  # fmt: skip
"""Schedules that a family has for the tabulated evaluator, where it has fewer than `N`."""
SLOW = {"optuna-gp": 12, "s3": 45}
"""Schedules to ask a family for that thinks long: one after ten at random, the other with some of its predictors."""


def most(family: str) -> int:
    """As many proposals as `drive` takes of a family."""
    return MOST.get(family, n_asked(family))


def n_asked(family: str) -> int:
    """As many proposals as are asked of a family."""
    return SLOW.get(family, N)


def drive(searcher: Searcher, evaluator: TabulatedEvaluator, n: int) -> list[Proposal]:
    proposals: list[Proposal] = []
    while len(proposals) < n and (asked := searcher.ask(1)):
        proposals += asked
        searcher.tell([Result(proposal=p, outcome=evaluator.score(p.schedule, FIDELITY)) for p in asked])
    return proposals


@pytest.mark.parametrize("family", FAMILIES)
def test_proposals_are_canonical_and_fit_the_model(
    family: str, context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    proposals = drive(make_searcher(family, context, 1), evaluator, n_asked(family))
    assert len(proposals) == most(family)
    for proposal in proposals:
        schedule = proposal.schedule
        assert canonical_schedule(schedule, context.inventory) == schedule
        assert schedule.n_steps <= context.condition.n_steps
        assert proposal.family == family
        assert proposal.label
        if schedule.cache is not None:
            n_calls = len(schedule.time or context.own_timesteps(schedule.n_steps))
            assert (schedule.cache.n_calls, schedule.cache.n_sites) == (n_calls, len(context.inventory))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_schedule_is_proposed_twice_nor_one_that_was_told(
    family: str, context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    told = drive(make_searcher(family, context, 1), evaluator, 10)
    searcher = make_searcher(family, context, 2)
    searcher.tell([Result(proposal=p, outcome=evaluator.score(p.schedule, FIDELITY)) for p in told])
    hashes = [p.schedule_hash for p in [*told, *drive(searcher, evaluator, n_asked(family))]]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [1, 5, 40])
def test_ask_gives_as_many_as_wanted(family: str, n: int, context: SearchContext) -> None:
    asked = make_searcher(family, context, 0).ask(n)
    assert len(asked) == min(n, MOST.get(family, n))
    assert len({p.schedule_hash for p in asked}) == len(asked)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_search_survives_failures_of_every_second_candidate_and_of_all(family: str, context: SearchContext) -> None:
    flaky = TabulatedEvaluator(fails=lambda s: FAILURE if s.cache and sum(s.cache.actions) % 2 else None)
    assert len(drive(make_searcher(family, context, 0), flaky, n_asked(family))) == most(family)
    broken = TabulatedEvaluator(fails=lambda s: FAILURE)
    assert len(drive(make_searcher(family, context, 0), broken, n_asked(family))) == most(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_global_random_states_have_no_say(
    family: str, context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    random.seed(1)
    np.random.seed(1)
    first = [p.schedule_hash for p in drive(make_searcher(family, context, 5), evaluator, n_asked(family))]
    random.seed(2)
    np.random.seed(2)
    state = random.getstate()
    assert [p.schedule_hash for p in drive(make_searcher(family, context, 5), evaluator, n_asked(family))] == first
    assert random.getstate() == state


SCRIPT = """
import sys
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.families import make_searcher
from autotune.search.searcher import Result, SearchContext
from autotune.spaces.evaluation import Fidelity
fidelity = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))
evaluator = TabulatedEvaluator()
context = SearchContext(
    condition=evaluator.condition,
    inventory=evaluator.inventory,
    own_timesteps=evaluator.own_timesteps,
    fit=lambda schedule, column: evaluator.fit(schedule, column, fidelity),
    edge_costs=lambda: evaluator.edge_costs(fidelity, 1),
    branch_tables=lambda: evaluator.branch_tables(fidelity, 1),
    segment_costs=lambda: evaluator.segment_costs(fidelity, 1),
)
for family in sys.argv[1:]:
    searcher = make_searcher(family, context, 9)
    for _ in range({"optuna-gp": 12, "s3": 45}.get(family, 70)):
        for proposal in searcher.ask(1):
            searcher.tell([Result(proposal=proposal, outcome=evaluator.score(proposal.schedule, fidelity))])
            print(proposal.schedule_hash)
"""


def test_another_process_proposes_the_same(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT, *FAMILIES], capture_output=True, text=True, check=True
    ).stdout.split()
    here = [
        p.schedule_hash
        for family in FAMILIES
        for p in drive(make_searcher(family, context, 9), evaluator, n_asked(family))
    ]
    assert printed == here


@pytest.mark.parametrize("family", ["ecad", "random"])
def test_seeds_differ(family: str, context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    first = [p.schedule_hash for p in drive(make_searcher(family, context, 0), evaluator, N)]
    assert first != [p.schedule_hash for p in drive(make_searcher(family, context, 1), evaluator, N)]


def test_an_unknown_family_is_refused_with_the_known_ones(context: SearchContext) -> None:
    with pytest.raises(
        UsageError,
        match=r"joint, ecad, ecad-published, cache-plan, cachequant, bac, evo, s3, optuna, .*; got 'genetic'",
    ):
        make_searcher("genetic", context)
