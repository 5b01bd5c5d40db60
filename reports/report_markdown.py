"""The report as plain text: what to use, the front, the families and what to be careful of, readable alone."""

from collections.abc import Iterable, Sequence
from textwrap import shorten

from autotune.reports.figure_text import figure_text, markdown_cell, number_text, source_text
from autotune.reports.finding import FamilyRow
from autotune.reports.pick_section import PickSection
from autotune.reports.provenance import duration_text, failure_rows, provenance_sections
from autotune.reports.tables import Row, to_markdown
from autotune.reports.wording import Wording
from autotune.spaces.front import quality_name
from autotune.spaces.study_record import StudyRecord, StudyState

MAX_FAILURES = 10

_FRONT_NOTE = (
    "Below and left is better. Filled coloured marks stand at held-out values, open and grey ones at those of the "
    "calibration {units}; bars and brackets are 95 % intervals.{floor} Cheapest first:"
)

_LONGEST_FACT = 200
_REST = " ... (whole in report.html)"
"""Characters of a fact; of longer ones, such as all prompts, the page has the rest."""


def report_markdown(
    record: StudyRecord,
    *,
    words: Wording,
    picks: Sequence[PickSection],
    advice: str,
    plots: Sequence[str],
    rows: Sequence[Row],
    baseline: Row | None,
    families: Sequence[FamilyRow],
    findings: Sequence[str],
) -> str:
    """The text of `report.md`; it shows the PNG files that lie beside it, and needs none of them.

    `plots` are the names of those of the front.
    """
    condition = record.condition
    parts = [
        f"# {markdown_cell(record.name)}",
        f"{markdown_cell(condition.model)}, {condition.pipeline_class}, "
        f"{words.size.format(width=condition.width, height=condition.height)}, "
        f"{condition.n_steps} steps by default, guidance {condition.guidance_scale:g}, {condition.dtype}, "
        f"{markdown_cell(condition.device)}; {len(record.candidates)} candidates in {duration_text(record.wall_s)}.",
    ]
    if record.state is not StudyState.DONE:
        parts.append(f"The study is {record.state}: these are the figures so far.")
    parts += ["## What to use", *_picks(picks, advice, baseline, words, quality_name(record))]
    if rows:
        note = _FRONT_NOTE.format(units=words.units, floor=words.floor)
        parts += ["## Front", *(f"![front]({plot})" for plot in plots), note, to_markdown(rows), words.held_up]
    if findings:
        parts.append("\n".join(f"- {markdown_cell(sentence)}" for sentence in findings))
    parts += ["## Pictures", "![samples](samples.png)", f"The worst {words.unit} first; {words.captions}."]
    if picks:
        parts += ["## Schedules", *_schedules(picks)]
    if families:
        parts += ["## What each family contributed", _families(families, words)]
    parts += ["## Progress", "![progress](progress.png)", "## Failures", *_failures(record)]
    parts += ["## Provenance", _provenance(record)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _picks(picks: Sequence[PickSection], advice: str, baseline: Row | None, words: Wording, quality: str) -> list[str]:
    if not picks:
        return ["No schedule to recommend: no candidate was measured, or none kept to the constraints."]
    figures = {"speedup": "speed-up", "latency_ms": "latency (ms)", words.metric: words.metric}
    figures |= dict(list(words.others.items())[:1])
    figures |= {quality: words.others.get(quality, quality)} if quality not in figures else {}
    header = ("pick", *figures.values(), "measured on", "schedule", "chosen as")
    lines = []
    for pick in picks:
        label = f"{pick.row['label']} ({pick.row['family']})"
        lines.append((pick.name, *_figures(pick.row, figures), label, pick.purpose))
    if baseline is not None:
        lines.append(("default run", *_figures(baseline, figures), str(baseline["label"]), "the pipeline as it comes"))
    first = next((pick for pick in picks if pick.name == "balanced"), picks[0])
    others = "\n".join(dict.fromkeys(pick.export for pick in picks if pick.export != first.export))
    return [
        markdown_cell(advice),
        f"```\n{first.export}\n```",
        f"Then, in the program that {words.program} (undo with `autotune.remove(pipe)`):",
        f"```python\nimport autotune\n\n{first.apply}\n```",
        _table(header, lines, text=("pick", "measured on", "schedule", "chosen as")),
        *([f"The others are written by\n\n```\n{others}\n```"] if others else []),
    ]


def _figures(row: Row, names: Iterable[str]) -> tuple[str, ...]:
    return (*(figure_text(row, name) for name in names), source_text(row))


def _schedules(picks: Sequence[PickSection]) -> list[str]:
    parts = []
    for pick in picks:
        if pick.drawn_above is None:
            names = " = ".join([pick.name, *pick.same])
            parts.append(f"**{names}**, {markdown_cell(str(pick.row['label']))}: {markdown_cell(pick.text)}.")
            parts.append(f"![schedule of {pick.name}](schedule-{pick.name}.png)")
    return parts


def _families(families: Sequence[FamilyRow], words: Wording) -> str:
    header = ("family", "tried", "calls", "on the front", "hypervolume added", "hypervolume alone", "failed",
              "best of its own", "of these dominated by fewer steps")  # fmt: skip
    lines = []
    for row, indent in ((r, i) for family in families for r, i in ((family, ""), *((a, "- ") for a in family.arms))):
        added = f"{row.added:.3f} ({row.share:.0%})"
        beaten = number_text("beaten", None) if row.beaten is None else str(row.beaten)
        lines.append(
            (indent + row.family, str(row.tried), f"{row.calls:,}", str(row.on_front), added, f"{row.hypervolume:.3f}",
             str(row.failed), str(row.best), beaten)
        )  # fmt: skip
    note = (
        "Added is the hypervolume that a family's schedules brought beyond all that were tried before them, on "
        f"calibration {words.units}; who comes first has it easier. What is missing to 100% came from the default run. "
        "Calls are network calls of measuring; those of fits and traces come on top."
    )
    return _table(header, lines, text=("family",)) + "\n" + note


def _failures(record: StudyRecord) -> list[str]:
    failures = failure_rows(record)
    if not failures:
        return ["No candidate failed."]
    lines = [
        (row.kind, str(row.count), row.reason, ", ".join(row.families), "; ".join(row.examples))
        for row in failures[:MAX_FAILURES]
    ]
    more = sum(row.count for row in failures[MAX_FAILURES:])
    header = ("kind", "count", "reason", "families", "for example")
    table = _table(header, lines, text=("kind", "reason", "families", "for example"))
    return [table, *([f"And {more} more of other kinds or reasons."] if more else [])]


def _provenance(record: StudyRecord) -> str:
    parts = []
    for title, facts in provenance_sections(record):
        lines = [
            f"- {name}: {markdown_cell(shorten(value, _LONGEST_FACT, placeholder=_REST))}" for name, value in facts
        ]
        parts.append("\n".join([title, "", *lines]))
    return "\n\n".join(parts)


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], text: Sequence[str]) -> str:
    """A Markdown table; the columns named in `text` stand to the left, the others, figures, to the right."""
    rule = "|" + "|".join(" --- " if name in text else " ---: " for name in header) + "|"
    rows = ["| " + " | ".join(map(markdown_cell, line)) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(header) + " |", rule, *rows]) + "\n"
