import pytest

from autotune.reports.point import study_points, volume
from autotune.reports.progress_figure import hypervolume_history
from autotune.spaces.study_record import StudyRecord


def test_hypervolume_never_shrinks_and_ends_at_that_of_all_candidates(search_only: StudyRecord) -> None:
    history = hypervolume_history(search_only)
    volumes = [value for _, value in history]
    assert volumes == sorted(volumes)
    assert history[-1][0] == len(search_only.candidates)
    places = [(p.cost, p.deviation) for p in study_points(search_only)]
    assert volumes[-1] == pytest.approx(volume(places))


def test_failures_count_as_evaluations_but_add_nothing(search_only: StudyRecord) -> None:
    assert search_only.candidates[-1].calibration.measurement is None
    assert hypervolume_history(search_only)[-1][1] == hypervolume_history(search_only)[-2][1]
