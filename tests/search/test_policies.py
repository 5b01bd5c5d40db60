"""Families of cache policies: the grid, the bisection where results differ most, and what a model does not support."""

import dataclasses
import itertools
import math

import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.families import make_searcher
from autotune.search.policies import FIRST_BLOCK_RANGE, N_BETWEEN, N_GRID, EveryPolicySearcher
from autotune.search.searcher import Result, SearchContext
from autotune.search.within_budget import BudgetSpentError
from autotune.spaces.cache_policy import CachePolicy, PolicyKind
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.evaluation import Fidelity, Measurement

FIDELITY = Fidelity(name="calibration", prompts=("a cat",), seeds=(0,))
POLICY_FAMILIES = ("sada", "teacache", "first-block", "magcache", "diffusers-caches")


def policies_of(family: str, context: SearchContext) -> list[CachePolicy]:
    return [p.schedule.policy for p in make_searcher(family, context).ask(1000) if p.schedule.policy is not None]


def test_the_middle_of_the_widest_gap_is_next(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    searcher = make_searcher("teacache", context)
    known: dict[float, Measurement] = {}
    for i in range(N_GRID + N_BETWEEN):
        (proposal,) = searcher.ask(1)
        policy, outcome = proposal.schedule.policy, evaluator.score(proposal.schedule, FIDELITY)
        assert policy is not None
        assert isinstance(outcome, Measurement)
        if i >= N_GRID:
            tried = sorted(known)
            gaps = [
                abs(math.log10(known[b].mean("deviation") / known[a].mean("deviation")))
                + abs(known[b].relative_macs - known[a].relative_macs)
                for a, b in itertools.pairwise(tried)
            ]
            widest = gaps.index(max(gaps))
            assert policy.threshold == pytest.approx(math.sqrt(tried[widest] * tried[widest + 1]))
        known[policy.threshold] = outcome
        searcher.tell([Result(proposal=proposal, outcome=outcome)])
    assert searcher.ask(1) == []


def test_the_grid_is_geometric_over_the_range(context: SearchContext) -> None:
    tried = policies_of("first-block", context)
    found = [policy.threshold for policy in tried if policy.max_skips == tried[0].max_skips][:N_GRID]
    assert sorted(found[:2]) == sorted(found)[2:4]  # the middle comes first
    found.sort()
    assert (found[0], found[-1]) == pytest.approx(FIRST_BLOCK_RANGE)
    ratios = [b / a for a, b in itertools.pairwise(found)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_labels_tell_policies_apart(context: SearchContext) -> None:
    for family in POLICY_FAMILIES:
        labels = [proposal.label for proposal in make_searcher(family, context).ask(1000)]
        assert len(set(labels)) == len(labels), family


def test_only_what_the_model_supports_is_proposed(context: SearchContext) -> None:
    unet = dataclasses.replace(context.inventory, denoiser_class="UNet2DConditionModel")
    on_unet = dataclasses.replace(context, inventory=unet)
    assert policies_of("teacache", on_unet) == policies_of("diffusers-caches", on_unet) == []
    assert policies_of("sada", on_unet)
    assert {p.kind for p in policies_of("diffusers-caches", context)} == {k for k in PolicyKind if k.by_diffusers}


def test_calibrated_policies_need_a_calibration(context: SearchContext) -> None:
    blind = dataclasses.replace(context, edge_costs=None)
    assert policies_of("magcache", blind) == policies_of("teacache", blind) == []
    assert context.edge_costs is not None
    calibration = context.edge_costs().calibration
    assert calibration is not None
    assert {p.ratios for p in policies_of("magcache", context)} == {calibration.ratios}


def test_in_all_together_the_families_take_turns(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    alone = {p.schedule_hash: family for family in POLICY_FAMILIES for p in make_searcher(family, context).ask(1000)}
    every = EveryPolicySearcher(context)
    for _ in range(2):
        asked = every.ask(5)
        assert [alone[p.schedule_hash] for p in asked] == list(POLICY_FAMILIES)
        assert {p.family for p in asked} == {"policies"}
        every.tell([Result(proposal=p, outcome=evaluator.score(p.schedule, FIDELITY)) for p in asked])
    assert len(every.ask(1000)) == len(alone) - 10
    assert every.ask(1) == []

    def unaffordable() -> EdgeCosts:
        raise BudgetSpentError("a recording takes 30 s")

    poor = EveryPolicySearcher(dataclasses.replace(context, edge_costs=unaffordable)).ask(1000)
    assert {alone[p.schedule_hash] for p in poor} == {"sada", "first-block", "diffusers-caches"}
    assert not any(p.schedule.policy.ratios or p.schedule.policy.polynomial for p in poor if p.schedule.policy)
