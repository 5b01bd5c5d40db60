"""What the report says of one named pick."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from autotune.reports.cache_map import cell_states
from autotune.reports.figure import Rendered, render
from autotune.reports.figure_text import figure_text, interval_of, number_text
from autotune.reports.schedule_figure import draw_schedule
from autotune.reports.schedule_text import schedule_text
from autotune.reports.tables import Row
from autotune.reports.wording import Wording
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.error_scale import ErrorScale, error_scale
from autotune.spaces.front import reported_measurement
from autotune.spaces.study_record import Candidate, StudyRecord

PURPOSE = {
    "quality": "best quality at up to one and a half times the default run's cost",
    "balanced": "the slower of two: the knee of the front, and the fastest not measurably worse than the default run",
    "fast": "the faster of two: the knee of the front, and the fastest not measurably worse than the default run",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PickSection:
    """One pick: its row of the table, what it does, its figure and the lines that take it along.

    `shift` compares calibration and held-out values of the error's metric, None without the latter; `same` are other
    names of the same schedule, and `drawn_above` that of the pick whose figure shows it already.
    """

    name: str
    purpose: str
    row: Row
    text: str
    shift: str | None
    same: tuple[str, ...]
    export: str
    apply: str
    figure: Rendered
    drawn_above: str | None


def pick_sections(
    record: StudyRecord, picks: Mapping[str, Candidate], rows: Mapping[str, Row], storage: str | None
) -> tuple[PickSection, ...]:
    """One section per pick, in their order; `rows` are those of the front by schedule hash.

    `storage` is the database to name in the export lines, None for the default one.
    """
    drawn: dict[str, str] = {}
    figures: dict[str, Rendered] = {}
    sections, scale = [], error_scale(record)
    for name, candidate in picks.items():
        key = candidate.schedule_hash
        above = drawn.setdefault(key, name)
        if above == name:
            figures[key] = _figure(name, candidate, record)
        row, file = rows[key], f"{name}.schedule.json"
        sections.append(
            PickSection(
                name=name,
                purpose=PURPOSE.get(name, ""),
                row=row,
                text=schedule_text(candidate.schedule, _reused(candidate, record)),
                shift=_shift(row, scale),
                same=tuple(other for other, c in picks.items() if c.schedule_hash == key and other != name),
                export=export_line(record.name, name, storage),
                apply=f'autotune.apply(pipe, "{file}")',
                figure=figures[key],
                drawn_above=None if above == name else above,
            )
        )
    return tuple(sections)


def advice(picks: Sequence[PickSection], baseline: Row | None, words: Wording, quality: str) -> str:
    """What to take, and what it costs, in a few sentences; "" without picks. `quality` chose the front."""
    chosen = next((pick for pick in picks if pick.name == "balanced"), None)
    if chosen is None:
        return ""
    row = chosen.row
    text = (
        f"Start with the pick balanced ({row['label']}): {figure_text(row, 'speedup')} as fast as the pipeline's "
        f"default run, {words.result.format(figure_text(row, words.metric), row.get('episodes'))}"
    )
    told = [words.metric]
    if quality != words.metric:
        text += f" and {quality} {figure_text(row, quality)}"
        told.append(quality)
    if baseline is not None:
        text += f", where the default run has {' and '.join(figure_text(baseline, name) for name in told)}"
    interval = interval_of(row, "speedup")
    if interval is not None and interval[0] <= 1.0 < interval[1]:
        text += ". The timings are too noisy, or the gain too small, to prove it faster"
    return f"{text}. This line writes it to a file."


def export_line(study: str, which: str, storage: str | None) -> str:
    """The command that writes a pick, or the schedule of a hash, to a file.

    `storage` is the study's database; a server, whose URL may hold a password, is not named.
    """
    shown = storage is not None and ("://" not in storage or storage.startswith("sqlite:"))
    words = ["autotune", "export", study, "--pick", which, "-o", f"{which}.schedule.json"]
    return shlex.join([*words, *(["--storage", str(storage)] if shown else [])])


def _figure(name: str, candidate: Candidate, record: StudyRecord) -> Rendered:
    measurement = reported_measurement(candidate)
    n_calls = candidate.schedule.n_steps if measurement is None else measurement.network_calls
    draw = partial(draw_schedule, candidate.schedule, record.inventory, n_calls, record.default_timesteps)
    return render(f"schedule-{name}", draw)


def _reused(candidate: Candidate, record: StudyRecord) -> float | None:
    states = cell_states(candidate.schedule, record.inventory)
    return None if states is None else float((states != CacheAction.RECOMPUTE).mean())


def _shift(row: Row, scale: ErrorScale) -> str | None:
    before, after = row.get(f"calibration_{scale.metric}"), row.get(scale.metric)
    if row["source"] != "held_out" or not isinstance(before, float) or not isinstance(after, float) or before <= 0:
        return None
    return f"{number_text(scale.metric, before)}, {scale.change(before, after)} on held-out ones"
