import numpy as np
import pytest

from autotune.reports.growth import arrivals
from autotune.reports.point import study_points, volume
from autotune.reports.progress_figure import draw_progress
from autotune.spaces.study_record import StudyRecord


def test_hypervolume_is_that_of_all_so_far_and_every_gain_belongs_to_one_candidate(search_only: StudyRecord) -> None:
    history = arrivals(search_only)
    assert [a.candidate.number for a in history] == list(range(len(search_only.candidates)))
    points = study_points(search_only)
    for i in (0, 5, 20, len(history) - 1):
        so_far = [(p.cost, p.error) for p in points if p.candidate.number <= i]
        assert history[i].hypervolume == pytest.approx(volume(so_far))
        assert sum(a.added for a in history[: i + 1]) == pytest.approx(history[i].hypervolume)
    assert min(a.added for a in history) >= 0.0


def test_failures_add_nothing_and_no_time(search_only: StudyRecord) -> None:
    last, before = arrivals(search_only)[-1], arrivals(search_only)[-2]
    assert last.candidate.calibration.measurement is None
    assert (last.added, last.measured_s) == (0.0, before.measured_s)


def test_progress_is_drawn_over_the_time_of_measuring_and_marks_who_brought_what(search_only: StudyRecord) -> None:
    history = arrivals(search_only)
    figure = draw_progress(history, narrow=False)
    curve = figure.axes[0].lines[0]
    assert np.array_equal(curve.get_xydata(), [(a.measured_s, a.hypervolume) for a in history])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"gain by ecad", "gain by fewer-steps"}
    assert len(draw_progress([], narrow=True).axes) == 1
