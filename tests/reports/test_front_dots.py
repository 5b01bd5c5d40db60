from functools import partial

from autotune.reports.figure import render
from autotune.reports.front_dots import front_dots
from autotune.reports.front_figure import FrontPlot, draw_front
from autotune.reports.point import study_points
from autotune.reports.tables import front_rows
from autotune.spaces.front import pick, study_front
from autotune.spaces.study_record import StudyRecord


def make_plot(record: StudyRecord) -> FrontPlot:
    front = study_front(record)
    hashes = frozenset(c.schedule_hash for c in front)
    return FrontPlot(points=study_points(record), front=hashes, picks=pick(front, record), cost="latency")


def test_front_rival_and_default_run_tell_their_figures_with_intervals_and_how_to_take_them(
    record: StudyRecord,
) -> None:
    plot, rows = make_plot(record), {str(row["schedule_hash"]): row for row in front_rows(record)}
    dots = front_dots(plot, rows, record.name, None)
    marked = [p.candidate for p in plot.marked]
    assert len({c.schedule_hash for c in marked}) == len(marked) == len(dots)
    assert {c.schedule_hash for c in study_front(record)} < {c.schedule_hash for c in marked}
    for dot, candidate in zip(dots, marked, strict=True):
        assert dot.title == candidate.label
        assert f" {'held-out' if candidate.held_out else 'calibration'} prompts" in dot.lines[2]
        assert all("[" in line for line in dot.lines[:2])
        if candidate.number == 0:
            assert dot.export == ""
            continue
        which = dot.picks[0] if dot.picks else candidate.schedule_hash[:12]
        assert dot.export == f"autotune export mini-flux-first --pick {which} -o {which}.schedule.json"
    assert {name for dot in dots for name in dot.picks} == {"quality", "balanced", "fast"}
    marked_rows = {key: row | {"support": "unclear"} for key, row in rows.items()}
    told = [dot for dot in front_dots(plot, marked_rows, record.name, None) if dot.lines[2].endswith(", unclear")]
    assert len(told) == len(rows)


def test_places_are_those_of_the_marks_and_none_outside_the_frame(record: StudyRecord) -> None:
    plot = make_plot(record)
    outside = (50.0, 0.05)
    rendered = render("x", partial(draw_front, plot), [*((p.cost, p.error) for p in plot.marked), outside])
    for found in (rendered.wide_places, rendered.narrow_places):
        assert found[-1] is None
        places = found[:-1]
        members = [place for p, place in zip(plot.marked, places, strict=True) if p in plot.members]
        assert [p is None for p in members] == [False] * len(members)
        across, down = zip(*(p for p in members if p), strict=True)
        assert list(across) == sorted(across)  # by cost
        assert list(down) == sorted(down)  # and the better the lower
        assert all(0 < x < 100 and 0 < y < 100 for x, y in zip(across, down, strict=True))
