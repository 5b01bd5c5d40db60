from typing import get_args

import pytest

from autotune.reports import palette
from autotune.reports.schedule_strip import strip_legend, strip_rows
from autotune.spaces.bdia_step import BdiaStep
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.momentum_step import Method, MomentumStep
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import SolverStep

B, S, L, Q, C = (GuidanceAction(a) for a in ("both", "stored", "linear", "quadratic", "conditional"))

EVERY_FORMULA: tuple[SolverRow, ...] = (
    SolverStep(view="data", domain="lambda", order=2, corrector=True),
    SolverStep(view="noise", domain="lambda", order=1, origin=1),
    SolverStep(view="noise", domain="sigma", order=1),
    SolverStep(view="velocity", domain="sigma", order=3),
    *(MomentumStep(method=method, order=1, beta=0.8) for method in get_args(Method)),
    BdiaStep(gamma=0.5),
)


def test_a_schedule_of_the_pipelines_own_has_no_rows_and_no_legend() -> None:
    assert strip_rows(Schedule(n_steps=3)) == ()
    assert strip_legend(Schedule(n_steps=3)) == ()


def test_every_formula_has_a_letter_and_a_colour_of_its_own_and_stands_in_the_legend() -> None:
    n = len(EVERY_FORMULA)
    schedule = Schedule(n_steps=n, time=tuple(float(n - i) for i in range(n)), solver=EVERY_FORMULA)
    time, solver = strip_rows(schedule)
    assert time.texts == tuple(str(n - i) for i in range(n))
    assert solver.texts == ("D2c", "N1'", "E1", "V3", "H1", "G1", "B1")
    assert len(set(solver.colours)) == n
    legend = {entry.colour: entry.text for entry in strip_legend(schedule)}
    assert legend[None] == "digit: order, c: corrected, ': from an earlier call"
    for row, text, colour in zip(EVERY_FORMULA, solver.texts, solver.colours, strict=True):
        assert legend[colour] == f"{text[0]}: {row.form}"


def test_guidance_strip_tells_all_actions_and_fitted_weights_apart() -> None:
    schedule = Schedule(n_steps=7, guidance=(B, B, B, S, L, Q, (0.5, 0.5)))
    (row,) = strip_rows(schedule)
    assert "".join(row.texts) == "BBBSLQF"
    (dropped,) = strip_rows(Schedule(n_steps=2, guidance=(B, C)))
    assert len({*row.colours, *dropped.colours}) == 6
    assert {entry.colour for entry in strip_legend(schedule)} == set(row.colours)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str, scheme: int) -> float:
    high, low = sorted((luminance(palette.LIGHT_AND_DARK[name][scheme]) for name in (a, b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_letters_can_be_read_and_cells_told_apart_without_hue(scheme: int) -> None:
    names = palette.LIGHT_AND_DARK
    for name in (n for n in names if n.startswith(("formula", "guidance"))):
        assert contrast(name, "paper" if name == "guidance-both" else "ink", scheme) >= 4.5, name
    assert contrast("recompute", "forecast", scheme) >= 2.0
    assert contrast("forecast", "reuse", scheme) >= 1.3
    ramp = ["both", "fitted", "quadratic", "linear", "stored", "one"]
    paper = [contrast(f"guidance-{name}", "paper", scheme) for name in ramp]
    assert paper == sorted(paper, reverse=True)
