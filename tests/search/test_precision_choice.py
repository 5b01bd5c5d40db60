"""Schedules and bits chosen together: what is chosen, against all pairs, and when nothing is."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.precision_choice import APART, Chosen, PrecisionChoice, _Pair
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.column_fit import PRECISIONS, Precision
from autotune.spaces.evaluation import Measurement
from autotune.spaces.objective import parse_constraint
from autotune.spaces.pareto import hypervolume
from autotune.spaces.schedule import Schedule

from .conftest import CALIBRATION


def added(precision: Precision) -> float:
    """The deviation that a precision has by itself: .04 to .64."""
    return 0.04 * math.exp2(8.0 - precision.mean_bits)


PLANS = {n: 2.0 / n**1.5 for n in range(4, 21)}
"""Deviations of plans, by how many of 20 calls they refresh."""


def proposal(n: int, precision: Precision | None = None) -> Proposal:
    table = None if precision is None else hashlib.sha256(f"{n} {precision}".encode()).hexdigest()
    return Proposal(schedule=Schedule(n_steps=n, quantization=table), family="cachequant", label=f"{n} {precision}")


def measured(base: Measurement, n: int, precision: Precision | None = None) -> Result:
    """The plan that refreshes `n` calls, in a precision."""
    bits, rounding = (32.0, 0.0) if precision is None else (precision.mean_bits, added(precision))
    activations = 32.0 if precision is None else 8.0
    outcome = replace(
        base,
        quality={"deviation": (math.hypot(PLANS[n], rounding),) * 4},
        macs=n,
        baseline_macs=20,
        weight_bytes=round(1000 * bits),
        baseline_weight_bytes=32_000,
        bit_operations=round(n * bits * activations),
        baseline_bit_operations=20 * 32 * 32,
    )
    return Result(proposal=proposal(n, precision), outcome=outcome)


@pytest.fixture
def base(evaluator: TabulatedEvaluator) -> Measurement:
    outcome = evaluator.score(Schedule(n_steps=20), CALIBRATION)
    assert isinstance(outcome, Measurement)
    return outcome


def played(choice: PrecisionChoice, base: Measurement, plans: Sequence[int]) -> list[Measurement]:
    """What is measured of all that is chosen, until nothing is."""
    choice.tell([measured(base, n) for n in plans])
    found = []
    while (chosen := choice.next()) is not None:
        result = measured(base, chosen.member.schedule.n_steps, chosen.precision)
        choice.note(result.proposal, chosen)
        choice.tell([result])
        assert isinstance(result.outcome, Measurement)
        found.append(result.outcome)
    return found


@pytest.mark.parametrize("share", [0.008, 0.012, 0.03])
def test_within_a_budget_of_bit_operations_the_best_pair_is_found_early(
    context: SearchContext, base: Measurement, share: float
) -> None:
    limit = parse_constraint(f"bit-operations<={share}")
    about = replace(context, objectives=("bit-operations", "deviation"), constraints=(limit,))
    found = played(PrecisionChoice(about), base, list(PLANS))
    pairs = [measured(base, n, precision).measurement for n, precision in product(PLANS, PRECISIONS)]
    within = [pair for pair in pairs if pair is not None and (pair.relative_bit_operations or 1.0) <= share]
    assert min(m.mean("deviation") for m in found) <= min(m.mean("deviation") for m in within)
    assert all((m.relative_bit_operations or 1.0) <= share for m in found)

    def volume(some: Sequence[Measurement]) -> float:
        points = [(m.relative_bit_operations or 1.0, math.log10(m.mean("deviation"))) for m in some]
        return hypervolume(points, (share, 0.0))

    assert volume(found) >= volume(within) - 1e-9  # the whole front
    assert volume(found[:8]) > 0.9 * volume(within)  # most of it from few fits


def test_a_limit_that_is_no_objective_is_used_up(context: SearchContext, base: Measurement) -> None:
    limit = parse_constraint("bit-operations<=0.03")
    found = played(
        PrecisionChoice(replace(context, objectives=("deviation",), constraints=(limit,))), base, list(PLANS)
    )
    pairs = [measured(base, n, precision).measurement for n, precision in product(PLANS, PRECISIONS)]
    within = [pair for pair in pairs if pair is not None and (pair.relative_bit_operations or 1.0) <= 0.03]
    assert min(m.mean("deviation") for m in found) <= min(m.mean("deviation") for m in within)
    assert len(found) <= 10  # of 85 pairs, and as many with a width between


def test_what_one_precision_leaves_in_floating_point_is_expected_of_all(
    context: SearchContext, base: Measurement
) -> None:
    """With a tenth of all products unquantized no precision fits the best plan, which one measurement tells."""
    limit = parse_constraint("bit-operations<=0.05")
    choice = PrecisionChoice(replace(context, objectives=("deviation",), constraints=(limit,)))
    choice.tell([measured(base, n) for n in PLANS])

    def operations(n: int, precision: Precision) -> int:
        return round(0.1 * n * 32 * 32 + 0.9 * n * precision.mean_bits * 8)

    most, found = 0.05 * 20 * 32 * 32, []
    while (chosen := choice.next()) is not None:
        n = chosen.member.schedule.n_steps
        result = measured(base, n, chosen.precision)
        assert result.measurement is not None
        outcome = replace(result.measurement, bit_operations=operations(n, chosen.precision))
        choice.note(result.proposal, chosen)
        choice.tell([replace(result, outcome=outcome)])
        found.append((outcome.mean("deviation"), operations(n, chosen.precision)))
    assert sum(taken > most for _, taken in found) == 1
    pairs = [(math.hypot(PLANS[n], added(c)), operations(n, c)) for n, c in product(PLANS, PRECISIONS)]
    best = min(deviation for deviation, taken in pairs if taken <= most)
    assert min(deviation for deviation, taken in found if taken <= most) <= best + 1e-12


def test_what_a_precision_costs_is_read_off_the_prompts_that_both_have_seen(
    context: SearchContext, base: Measurement
) -> None:
    """A quantized schedule that the ladder stopped after its first prompts, which are easy ones."""
    choice = PrecisionChoice(replace(context, objectives=("weights", "deviation")))
    plain, hard = measured(base, 20), {"deviation": (0.01, 0.01, 0.9, 0.9)}
    assert plain.measurement is not None
    choice.tell([replace(plain, outcome=replace(plain.measurement, quality=hard))])
    chosen = choice.next()
    assert chosen is not None
    result = measured(base, 20, chosen.precision)
    assert result.measurement is not None
    choice.note(result.proposal, chosen)
    choice.tell([replace(result, outcome=replace(result.measurement, quality={"deviation": (0.41, 0.41)}))])
    assert choice._pairs[chosen.precision][0].added == pytest.approx(0.41**2 - 0.01**2)


def test_what_bits_save_is_expected_of_the_numbers_that_the_model_has(
    context: SearchContext, base: Measurement
) -> None:
    """Half the bytes in 8 bits are all weights of a bfloat16 model, so that 4 bits take a quarter."""
    half = replace(context, condition=replace(context.condition, dtype="bfloat16"), objectives=("weights", "deviation"))
    choice = PrecisionChoice(half)
    choice._pairs[Precision(8.0)].append(_Pair(weights=0.5, bit_operations=0.25, added=0.0))
    expected = choice._expected(4.0)
    assert expected.weights == pytest.approx(0.25)
    assert expected.bit_operations == pytest.approx(0.125)


def test_bits_alone_decide_under_a_limit_of_bytes(context: SearchContext, base: Measurement) -> None:
    limit = parse_constraint("weights_gb<=0.0000065")  # 6.5 bits
    about = replace(context, objectives=("macs", "deviation"), constraints=(limit,))
    found = played(PrecisionChoice(about), base, [20, 8])
    best = {n: min(m.mean("deviation") for m in found if m.macs == n) for n in (20, 8)}
    assert best == {n: pytest.approx(math.hypot(PLANS[n], added(Precision(6.5)))) for n in (20, 8)}


@pytest.mark.parametrize("limit", [0.13, 0.1401, 0.17, 0.2, 0.2499])
def test_any_budget_of_bytes_is_used_up(context: SearchContext, base: Measurement, limit: float) -> None:
    """A tenth of all weights is not quantized, which nothing tells before the first pair."""
    about = replace(
        context, objectives=("deviation",), constraints=(parse_constraint(f"weights<={0.1 + 0.9 * limit}"),)
    )
    choice = PrecisionChoice(about)
    choice.tell([measured(base, 20)])
    taken = []
    while (chosen := choice.next()) is not None:
        result = measured(base, 20, chosen.precision)
        assert result.measurement is not None
        taken.append(0.1 + 0.9 * chosen.precision.mean_bits / 32)
        choice.note(result.proposal, chosen)
        outcome = replace(result.measurement, weight_bytes=round(32_000 * taken[-1]))
        choice.tell([replace(result, outcome=outcome)])
    most = 0.1 + 0.9 * limit
    assert most - max(share for share in taken if share <= most) < 0.9 * APART / 32
    assert len(taken) <= 6, "within a few fits"


def test_nothing_is_chosen_that_promises_nothing_or_was_chosen(context: SearchContext, base: Measurement) -> None:
    choice = PrecisionChoice(replace(context, objectives=("macs", "deviation")))
    choice.tell([measured(base, n) for n in PLANS])
    assert choice.next() is None  # fewer bits change neither
    choice = PrecisionChoice(replace(context, objectives=("weights", "deviation")))
    choice.tell([measured(base, n) for n in (20, 10)])
    chosen: list[Chosen] = []
    while (one := choice.next()) is not None:
        chosen.append(one)  # as if no fit had come of any
    assert {(one.member.schedule.n_steps, one.precision) for one in chosen} == {
        (20, precision) for precision in PRECISIONS
    }
    assert PrecisionChoice(context).next() is None


def test_a_correction_that_rounding_spoils_does_not_hide_the_plan_without(
    context: SearchContext, base: Measurement
) -> None:
    """The corrected plan is better until it is quantized: the other one is tried, too, and wins."""
    limit = parse_constraint("weights<=0.25")
    choice = PrecisionChoice(replace(context, objectives=("latency", "deviation"), constraints=(limit,)))
    plain = Schedule(n_steps=10, cache=CachePlan.from_array(np.eye(10, len(context.inventory), -1, dtype=int)))
    corrected = replace(plain, cache_correction="c" * 64)
    deviations = {(False, False): 0.2, (True, False): 0.05, (False, True): 0.22, (True, True): 0.3}

    def result(schedule: Schedule) -> Result:
        key = (schedule.cache_correction is not None, schedule.quantization is not None)
        outcome = replace(
            base,
            quality={"deviation": (deviations[key],) * 4},
            weight_bytes=8_000 if key[1] else 32_000,
            baseline_weight_bytes=32_000,
        )
        return Result(proposal=Proposal(schedule=schedule, family="cachequant", label=""), outcome=outcome)

    choice.tell([result(plain), result(corrected)])
    tried: list[Schedule] = []
    while (chosen := choice.next()) is not None and len(tried) < 8:
        made = replace(chosen.member.schedule, quantization=f"{len(tried):x}" * 64)
        tried.append(chosen.member.schedule)
        choice.note(result(made).proposal, chosen)
        choice.tell([result(made)])
    assert tried[0] == corrected
    assert plain in tried
