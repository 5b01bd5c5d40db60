"""What the figures say in words, computed from the record: which family wins where, and which one does not pay."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotune.reports.figure_text import number_text
from autotune.reports.growth import Arrival
from autotune.reports.point import HELD_OUT, Point, cost_and_error, lower_front, volume
from autotune.reports.wording import wording
from autotune.spaces.error_scale import error_scale, scale_of
from autotune.spaces.front import BASELINE, JOINT, RIVAL, quality_name, refuted_members
from autotune.spaces.study_record import Candidate, StudyRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRow:
    """One family in numbers.

    `calls` are the network calls that measuring its candidates took, without those of fits and traces. `best`
    counts its own non-dominated candidates, `beaten` those of them that some fewer-steps run dominates (None for
    the fewer-steps family itself, and where no fewer-steps run was measured). `hypervolume` is that of the family
    alone, on the values that the front plot shows. `added` is what its candidates added to the hypervolume of all
    that came before them, on the calibration values, and `share` that as a part of the whole; the families are
    tried one after the other, so the earlier one has it easier. `arms` are the searches that the joint search draws
    from.
    """

    family: str
    tried: int
    calls: int
    failed: int
    on_front: int
    best: int
    beaten: int | None
    hypervolume: float
    added: float
    share: float
    arms: tuple["FamilyRow", ...] = ()


def family_rows(
    record: StudyRecord,
    points: Sequence[Point],
    front: Sequence[Candidate],
    cost: str,
    history: Sequence[Arrival],
) -> tuple[FamilyRow, ...]:
    """One row per family of the study, in order of name, the default run left out.

    Args:
        record: the study.
        points: its `study_points`.
        front: its `study_front`.
        cost: its `cost_name`.
        history: its `arrivals`.
    """
    table = _Table(points, front, cost, history)
    rows = []
    for family in sorted({c.family for c in record.candidates} - {BASELINE}):
        tried = [c for c in record.candidates if c.family == family]
        row = table.row(family, tried)
        if family == JOINT:
            arms = sorted({arm for c in tried if (arm := arm_of(c)) is not None})
            row = replace(row, arms=tuple(table.row(arm, [c for c in tried if arm_of(c) == arm]) for arm in arms))
        rows.append(row)
    return tuple(rows)


def arm_of(candidate: Candidate) -> str | None:
    """The search that proposed a candidate of the joint search, which stands before the colon of its label."""
    arm, colon, _ = candidate.label.partition(": ")
    return arm if candidate.family == JOINT and colon else None


class _Table:
    """Makes the row of any group of candidates."""

    def __init__(
        self, points: Sequence[Point], front: Sequence[Candidate], cost: str, history: Sequence[Arrival]
    ) -> None:
        self._points = {p.candidate.number: p for p in points}
        self._rivals = [p for p in points if p.family == RIVAL]
        self._on_front = {c.schedule_hash for c in front}
        self._cost = cost
        self._added = {arrival.candidate.number: arrival.added for arrival in history}
        self._total = history[-1].hypervolume if history else 0.0

    def row(self, name: str, tried: Sequence[Candidate]) -> FamilyRow:
        mine = [self._points[c.number] for c in tried if c.number in self._points]
        best = lower_front(mine)
        compared = bool(self._rivals) and name != RIVAL
        added = sum(self._added[c.number] for c in tried)
        return FamilyRow(
            family=name,
            tried=len(tried),
            calls=sum(m.network_calls * m.n_prompts for c in tried if (m := c.calibration.measurement) is not None),
            failed=sum(c.calibration.measurement is None for c in tried),
            on_front=sum(c.schedule_hash in self._on_front for c in tried),
            best=len(best),
            beaten=sum(any(beats(r, p, self._cost) for r in self._rivals) for p in best) if compared else None,
            hypervolume=volume([(p.cost, p.error) for p in mine]),
            added=added,
            share=added / self._total if self._total > 0 else 0.0,
        )


def beats(rival: Point, point: Point, cost: str) -> bool:
    """Whether the rival dominates the point, on held-out values if both have them, else on calibration values."""
    if rival.source == point.source == HELD_OUT:
        a, b = (rival.cost, rival.error), (point.cost, point.error)
    else:
        first = cost_and_error(rival.candidate.calibration.measurement, cost)
        second = cost_and_error(point.candidate.calibration.measurement, cost)
        if first is None or second is None:
            return False
        a, b = first, second
    return a != b and a[0] <= b[0] and a[1] <= b[1]


def sentences(
    rows: Sequence[FamilyRow], points: Sequence[Point], members: Sequence[Point], cost: str
) -> tuple[str, ...]:
    """What a reader should know before believing the front: its origin, the rival, the shift between prompt sets."""
    found = []
    if members:
        families = sorted({p.family for p in members} - {BASELINE})
        origin = f", from {_joined(families)}" if families else ""
        found.append(f"The front has {_count(len(members), 'schedule')}{origin}.")
    found += [text for row in rows if (text := _rivalry(row)) is not None]
    fewer = next((row for row in rows if row.family == RIVAL), None)
    if fewer is None or not fewer.best:
        found.append("No fewer-steps run was measured, so the front is not held against the strongest cheap rival.")
    elif members:
        found.append(_volumes(members, [p for p in points if p.family == RIVAL], cost))
    if any(p.candidate.schedule.quantization is not None for p in members):
        found.append(
            "Quantized schedules are computed in floating point here: their latency is not that of low-precision "
            "kernels, so go by weights and bit operations."
        )
    shift = _shift(points)
    return (*found, *([shift] if shift else []))


def taken_off(record: StudyRecord) -> tuple[str, ...]:
    """Which members of the calibration front its held-out values have taken off it, in a sentence."""
    members = refuted_members(record)
    if not members:
        return ()
    labels = "; ".join(f"{c.label} ({c.schedule_hash[:12]})" for c in members)
    return (f"Taken off the front by held-out values: {labels}. Their figures are in table.md.",)


def chosen_by(record: StudyRecord) -> tuple[str, ...]:
    """That the front was chosen by another quality than the one that the report draws, in a sentence."""
    quality, drawn = quality_name(record), error_scale(record).metric
    if quality == drawn:
        return ()
    return (
        f"The front was chosen by {quality}, which the second plot shows. The first one, hypervolumes and the progress "
        f"show {drawn}, in which fewer steps may lie below a member.",
    )


def _volumes(members: Sequence[Point], rivals: Sequence[Point], cost: str) -> str:
    """Hypervolumes of the front and of the rival on the same prompts: held-out ones only where all have such values."""
    groups, where = (members, rivals), ""
    if any(p.source != HELD_OUT for p in (*members, *lower_front(rivals))):
        where = " of calibration values"
        places = [[cost_and_error(p.candidate.calibration.measurement, cost) for p in group] for group in groups]
    else:
        places = [[(p.cost, p.error) for p in group if p.source == HELD_OUT] for group in groups]
    total, alone = (volume([place for place in group if place is not None]) for group in places)
    return f"Hypervolume{where}: {total:.3f} for the whole front, {alone:.3f} for fewer steps alone."


def _rivalry(row: FamilyRow) -> str | None:
    if row.beaten is None or row.best == 0:
        return None
    if row.beaten == row.best:
        what = "schedule is" if row.best == 1 else f"{row.best} schedules are all"
        return f"Family {row.family} does not pay here: its best {what} dominated by taking fewer steps."
    if row.beaten == 0:
        best = "the best schedule" if row.best == 1 else f"any of the best {row.best} schedules"
        return f"No fewer-steps run dominates {best} of family {row.family}."
    return f"Fewer steps dominate {row.beaten} of the best {row.best} schedules of family {row.family}."


def _shift(points: Sequence[Point]) -> str | None:
    baseline = next((p for p in points if p.family == BASELINE and p.source == HELD_OUT), None)
    if baseline is None or baseline.candidate.calibration.measurement is None:
        return None
    words = wording(scale_of(baseline.measurement))
    both = (baseline.candidate.calibration.measurement, baseline.measurement)
    if not all(m.quality.get(words.metric) for m in both):
        return None
    values = (number_text(words.metric, m.mean(words.metric)) for m in both)
    return f"{words.shift.format(*values)}; marks of the two kinds differ by that much to begin with."


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _joined(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"family {names[0]}"
    return f"families {', '.join(names[:-1])} and {names[-1]}"
