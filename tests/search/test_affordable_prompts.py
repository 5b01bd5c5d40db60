import dataclasses
from pathlib import Path

import pytest

from autotune.evaluators.pool import InProcessPool
from autotune.evaluators.presets import PRESETS
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.affordable_prompts import MIN_PROMPTS, SHARE, with_affordable_prompts
from autotune.search.settings import Settings, make_settings
from autotune.spaces.reference_schedule import REFERENCE_STEPS
from autotune.storage.database import Database

from .onlooker import Onlooker

N_ALL = 32


class PromptsOnlooker(Onlooker):
    """Keeps what it is told of prompts."""

    told: tuple[int, int] | None = None

    def on_fewer_prompts(self, n_calibration: int, n_held_out: int) -> None:
        self.told = n_calibration, n_held_out


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.open(str(tmp_path / "s.db"))


def settings_of(seconds: float | None, cost: float | None = None) -> Settings:
    budget = None if seconds is None else f"{seconds:.6f}s"
    price = None if cost is None else 3600.0  # a unit of money per second
    made = make_settings("mini-flux", PRESETS["mini-flux"], budget=budget, cost=cost, price=price, evaluations=100)
    assert len(made.calibration) + len(made.held_out) == N_ALL
    return made


N_TIMED = 9
"""Two batches of the baseline, two on a first rung; in the verification three, in turn with the default run's three.

The baseline's own run is the first of its three.
"""


def needed_s(evaluator: TabulatedEvaluator, n_prompts: float) -> float:
    """The budget whose share is what so many prompts take."""
    fidelity = settings_of(1.0).plan("s").calibration
    runs = 1.0 + REFERENCE_STEPS / evaluator.condition.n_steps
    n_images = runs * n_prompts + N_TIMED * min(evaluator.condition.batch_size, n_prompts / 2)
    return n_images * evaluator.default_ms(fidelity) / 1000.0 / SHARE


@pytest.mark.parametrize(
    ("n_affordable", "n_left"), [(32.5, 16), (31.5, 8), (16.5, 8), (15.5, 4), (9, 4), (1, MIN_PROMPTS)]
)
def test_prompts_are_halved_until_their_references_take_their_share(
    n_affordable: float, n_left: int, database: Database
) -> None:
    evaluator, onlooker = TabulatedEvaluator(), PromptsOnlooker()
    settings = settings_of(needed_s(evaluator, n_affordable) + 7.0)
    made = with_affordable_prompts(settings, InProcessPool(evaluator), database, lambda: 7.0, onlooker)
    assert (made.calibration, made.held_out) == (settings.calibration[:n_left], settings.held_out[:n_left])
    assert dataclasses.replace(made, calibration=settings.calibration, held_out=settings.held_out) == settings
    assert onlooker.told == (None if n_left == 16 else (n_left, n_left))


def test_money_is_time_too(database: Database) -> None:
    evaluator = TabulatedEvaluator()
    settings = settings_of(None, cost=needed_s(evaluator, 17))
    assert len(with_affordable_prompts(settings, InProcessPool(evaluator), database, lambda: 0.0).calibration) == 8


def test_without_a_budget_of_time_nothing_is_measured_or_left_out(database: Database) -> None:
    class Untouched(TabulatedEvaluator):
        def default_ms(self, fidelity: object) -> float:
            raise AssertionError

    settings = settings_of(None)
    assert with_affordable_prompts(settings, InProcessPool(Untouched()), database, lambda: 7.0) is settings
