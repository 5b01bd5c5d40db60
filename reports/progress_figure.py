"""How the front grew: hypervolume over the number of evaluations."""

from matplotlib.figure import Figure

from autotune.reports import palette
from autotune.reports.point import cost_and_deviation, cost_name, volume
from autotune.spaces.study_record import StudyRecord

History = tuple[tuple[int, float], ...]


def hypervolume_history(record: StudyRecord) -> History:
    """(number of evaluations, hypervolume after them) wherever it grew, from calibration values; ends at the last one.

    Candidates that failed or were stopped early count as evaluations: they cost budget too.
    """
    cost = cost_name(record)
    whole = {candidate.number for candidate in record.whole}
    history: list[tuple[int, float]] = []
    front: list[tuple[float, float]] = []
    best = 0.0
    for done, candidate in enumerate(sorted(record.candidates, key=lambda c: c.number), 1):
        place = cost_and_deviation(candidate.calibration.measurement, cost)
        if candidate.number not in whole:
            place = None
        if place is not None and not any(x <= place[0] and y <= place[1] for x, y in front):
            front = [p for p in front if not (place[0] <= p[0] and place[1] <= p[1])] + [place]
            best = volume(front)
        if not history or best != history[-1][1] or done == len(record.candidates):
            history.append((done, best))
    return tuple(history)


def draw_progress(history: History, narrow: bool) -> Figure:
    """Hypervolume as a staircase over evaluations."""
    figure = Figure(figsize=(4.2, 2.6) if narrow else (8.6, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel("evaluations")
    axes.set_ylabel("hypervolume")
    axes.grid(visible=True)
    if history:
        done, volumes = zip(*history, strict=True)
        axes.step(done, volumes, where="post", color=palette.light("accent"), lw=1.8)
        axes.fill_between(done, volumes, step="post", color=palette.light("accent"), alpha=0.12, lw=0)
        axes.set_xlim(0, max(done) * 1.02)
        axes.set_ylim(0, max(*volumes, 0.01) * 1.12)
    return figure
