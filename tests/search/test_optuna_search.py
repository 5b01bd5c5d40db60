import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from autotune.evaluators.small_flux import small_flux_condition, small_flux_inventory
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.archive import ParetoArchive
from autotune.search.fewer_steps import FewerStepsSearcher
from autotune.search.optuna_search import OptunaSearcher, OptunaSettings, Sampler
from autotune.search.random_search import RandomSearcher
from autotune.search.searcher import Result, SearchContext, Searcher
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.objective import Constraint

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))


def run(searcher: Searcher, evaluator: TabulatedEvaluator, n: int) -> list[Result]:
    results: list[Result] = []
    while len(results) < n:
        told = [Result(proposal=p, outcome=evaluator.score(p.schedule, FIDELITY)) for p in searcher.ask(1)]
        searcher.tell(told)
        results += told
    return results


def hypervolume(results: list[Result]) -> float:
    archive = ParetoArchive(("latency", "deviation"))
    for result in results:
        archive.add(result)
    return archive.hypervolume


def uniform_draws(context: SearchContext, seed: int) -> OptunaSearcher:
    """Points of the same space, drawn at random."""
    return OptunaSearcher(context, seed, OptunaSettings(n_startup=10**6, n_presets=0))


def trials(searcher: OptunaSearcher) -> list[optuna.trial.FrozenTrial]:
    return searcher._study.get_trials()


def test_the_front_is_better_than_that_of_random_schedules(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    seeds = range(5)
    own = [hypervolume(run(OptunaSearcher(context, seed), evaluator, 60)) for seed in seeds]
    rivals: tuple[Callable[[SearchContext, int], Searcher], ...] = (RandomSearcher, uniform_draws)
    for rival in rivals:
        others = [hypervolume(run(rival(context, seed), evaluator, 60)) for seed in seeds]
        assert np.mean(own) > np.mean(others) + 0.01
        assert sum(a > b for a, b in zip(own, others, strict=True)) >= 4


@pytest.mark.parametrize(("sampler", "n"), [("tpe", 20), ("nsga2", 45), ("nsga3", 45), ("gp", 5)])
def test_every_sampler_follows_its_seed_in_silence(
    sampler: Sampler, n: int, context: SearchContext, evaluator: TabulatedEvaluator, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = OptunaSettings(sampler=sampler, n_startup=4, n_presets=2)
    verbosity = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = [run(OptunaSearcher(context, seed, settings), evaluator, n) for seed in (3, 3, 4)]
    first, second, other = ([r.proposal.schedule_hash for r in results] for results in runs)
    assert first == second
    assert first != other
    assert len(set(first)) == n
    assert optuna.logging.get_verbosity() == verbosity
    assert capfd.readouterr() == ("", "")


def test_the_first_proposals_are_presets_at_the_middle_step_count(context: SearchContext) -> None:
    asked = OptunaSearcher(context, 0).ask(4)
    rivals = FewerStepsSearcher(context).ask(6)[2:]
    assert [p.schedule.solver for p in asked] == [p.schedule.solver for p in rivals]
    for own, rival in zip(asked, rivals, strict=True):
        assert own.schedule.time == pytest.approx(rival.schedule.time, abs=20.0)
    assert asked[0].label == "10 steps, data view, order 2, corrector"


def test_results_of_the_rival_become_trials_where_a_point_is_near(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    results = run(FewerStepsSearcher(context), evaluator, 20)
    searcher = OptunaSearcher(context, 0)
    searcher.tell(results)
    searcher.tell(results)
    known = trials(searcher)
    assert 10 <= len(known) <= 18  # the first two are the pipeline's own sampler
    uniform = next(r for r in results if r.proposal.label == "unipc-2, uniform lambda, 10 steps")
    assert isinstance(uniform.outcome, Measurement)
    trial = next(t for t in known if t.params["n_steps"] == 10 and t.params["bend"] == pytest.approx(0.0, abs=1e-6))
    assert (trial.params["form"], trial.params["order"], trial.params["corrector"]) == ("data", 2, True)
    assert trial.values == pytest.approx([uniform.outcome.relative_latency, np.log(uniform.outcome.mean("deviation"))])
    searcher.ask(1)
    assert trials(searcher)[-1].state is TrialState.RUNNING  # no preset is tried again
    assert "fixed_params" not in trials(searcher)[-1].system_attrs


def test_results_without_a_point_are_only_remembered(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    searcher = OptunaSearcher(context, 0)
    searcher.tell(run(RandomSearcher(context, 0), evaluator, 5))
    assert trials(searcher) == []


def test_a_failure_ends_its_trial_as_failed(context: SearchContext) -> None:
    searcher = OptunaSearcher(context, 0)
    asked = searcher.ask(2)
    failure = Failure(kind=FailureKind.NAN, reason="")
    searcher.tell([Result(proposal=p, outcome=failure) for p in asked])
    assert [trial.state for trial in trials(searcher)[:2]] == [TrialState.FAIL] * 2


def test_a_value_that_is_not_a_number_is_a_failure_and_infinity_a_large_one(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    searcher = OptunaSearcher(dataclasses.replace(context, objectives=("latency", "psnr")), 0)
    asked = searcher.ask(2)
    measured = evaluator.score(asked[0].schedule, FIDELITY)
    assert isinstance(measured, Measurement)
    for proposal, psnr in zip(asked, (float("nan"), float("inf")), strict=True):
        outcome = dataclasses.replace(measured, quality={**measured.quality, "psnr": (psnr,)})
        searcher.tell([Result(proposal=proposal, outcome=outcome)])
    assert [trial.state for trial in trials(searcher)[:2]] == [TrialState.FAIL, TrialState.COMPLETE]
    assert trials(searcher)[1].values[1] == -1e12


def test_constraints_are_told_and_kept(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    constraints = (Constraint("deviation", "<=", 0.02), Constraint("latency", "<=", 0.5))
    limited = dataclasses.replace(context, constraints=constraints)

    def share_feasible(results: list[Result]) -> float:
        kept = [
            r.measurement is not None and all(c.violation(r.measurement) == 0.0 for c in constraints)
            for r in results[20:]
        ]
        return float(np.mean(kept))

    searchers = [OptunaSearcher(limited, seed) for seed in range(2)]
    own = [share_feasible(run(searcher, evaluator, 50)) for searcher in searchers]
    free = [share_feasible(run(OptunaSearcher(context, seed), evaluator, 50)) for seed in range(2)]
    assert np.mean(own) > np.mean(free) + 0.15
    results = run(OptunaSearcher(limited, 0), evaluator, 10)
    told = [trial.constraints for trial in trials(searchers[0])[:10]]
    assert told == [{str(c): c.violation(r.measurement) for c in constraints if r.measurement} for r in results]
    assert any(sum(violations.values()) > 0.0 for violations in told)


def test_a_point_of_a_known_schedule_gets_the_known_result(evaluator: TabulatedEvaluator) -> None:
    """One step has one grid, and formulas that are few: the space is exhausted, and asking ends."""
    inventory = small_flux_inventory()
    tiny = TabulatedEvaluator(small_flux_condition(inventory, 2), inventory)
    context = SearchContext(condition=tiny.condition, inventory=inventory, own_timesteps=tiny.own_timesteps)
    searcher = OptunaSearcher(context, 0, OptunaSettings(n_presets=0, sampler="nsga2"))
    hashes: list[str] = []
    for _ in range(40):
        asked = searcher.ask(1)
        hashes += [p.schedule_hash for p in asked]
        searcher.tell([Result(proposal=p, outcome=tiny.score(p.schedule, FIDELITY)) for p in asked])
    assert len(set(hashes)) == len(hashes)
    plain = [t for t in trials(searcher) if not t.params["analytic_start"]]
    assert len(plain) > 10
    assert {t.state for t in plain} == {TrialState.COMPLETE}
    for form in ("data", "noise", "straight"):
        assert len({tuple(t.values) for t in plain if t.params["form"] == form}) <= 1


def test_a_duplicate_in_one_batch_waits_for_the_result() -> None:
    inventory = small_flux_inventory()
    tiny = TabulatedEvaluator(small_flux_condition(inventory, 2), inventory)
    context = SearchContext(condition=tiny.condition, inventory=inventory, own_timesteps=tiny.own_timesteps)
    searcher = OptunaSearcher(context, 0, OptunaSettings(n_presets=0))
    asked = searcher.ask(20)
    assert len(trials(searcher)) > len(asked)
    searcher.tell([Result(proposal=p, outcome=tiny.score(p.schedule, FIDELITY)) for p in asked])
    assert {t.state for t in trials(searcher)} == {TrialState.COMPLETE}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "cma"}, "tpe, nsga2, nsga3, gp; got 'cma'"),
        ({"population_size": 1}, "population_size must be at least 2"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OptunaSettings(**changes)  # type: ignore[arg-type]
