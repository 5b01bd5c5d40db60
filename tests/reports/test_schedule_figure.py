import dataclasses

import numpy as np

from autotune.reports.schedule_figure import draw_schedule
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import StudyRecord


def cached(record: StudyRecord) -> Schedule:
    return next(c.schedule for c in record.candidates if c.schedule.cache and c.schedule.time and c.schedule.guidance)


def test_all_panels_have_one_column_per_call(record: StudyRecord) -> None:
    schedule = cached(record)
    time, strip, cells = draw_schedule(schedule, record.inventory, 20, (900.0, 100.0), narrow=False).axes
    assert time.get_xlim() == strip.get_xlim() == cells.get_xlim() == (0, schedule.n_steps)
    assert cells.get_ylim() == (len(record.inventory), 0)
    assert len(cells.get_yticks()) == len(record.inventory)


def test_noise_levels_stand_above_their_calls_and_the_default_runs_over_the_same_width(record: StudyRecord) -> None:
    schedule = cached(record)
    default, own = draw_schedule(schedule, record.inventory, 20, (900.0, 100.0), narrow=False).axes[0].lines
    n = schedule.n_steps
    assert np.array_equal(own.get_xydata(), np.column_stack([np.arange(n) + 0.5, schedule.time or ()]))
    assert np.array_equal(default.get_xydata(), [[0.25 * n, 900.0], [0.75 * n, 100.0]])


def test_panels_that_would_say_nothing_are_left_out(record: StudyRecord) -> None:
    bare = Schedule(n_steps=4)
    assert len(draw_schedule(bare, record.inventory, 4, None, narrow=False).axes) == 1
    assert len(draw_schedule(bare, record.inventory, 4, (4.0, 3.0, 2.0, 1.0), narrow=True).axes) == 2
    timed = dataclasses.replace(cached(record), cache=None)
    assert len(draw_schedule(timed, record.inventory, timed.n_steps, None, narrow=True).axes) == 2


def legend(schedule: Schedule, record: StudyRecord, times: tuple[float, ...] | None) -> list[str]:
    figure = draw_schedule(schedule, record.inventory, schedule.n_steps, times, narrow=False)
    return [text.get_text() for found in figure.legends for text in found.get_texts()]


def test_legend_names_what_occurs(record: StudyRecord) -> None:
    texts = legend(cached(record), record, (900.0, 100.0))
    assert {
        "its noise levels",
        "default run's, 2 calls",
        "B: both branches",
        "recompute",
        "reuse the last value",
    } <= set(texts)
    assert "forecast from the last values" not in texts
    assert legend(Schedule(n_steps=2), record, (900.0, 100.0)) == ["default run's, 2 calls, kept"]
    assert legend(Schedule(n_steps=4), record, (900.0, 100.0)) == ["default run's, 2 calls"]
