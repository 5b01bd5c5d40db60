"""The report of a study: one self-contained HTML page, the same figures as PNG, the front as Markdown and CSV."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from autotune.reports.figure import Rendered, render, render_png
from autotune.reports.finding import chosen_by, family_rows, sentences, taken_off
from autotune.reports.folder import write_files
from autotune.reports.front_dots import front_dots
from autotune.reports.front_figure import FrontPlot, draw_front, outside_frame
from autotune.reports.growth import arrivals
from autotune.reports.page import render_page
from autotune.reports.pick_section import advice, pick_sections
from autotune.reports.point import by_quality, cost_name, study_points, volume
from autotune.reports.progress_figure import draw_progress
from autotune.reports.report_markdown import report_markdown
from autotune.reports.sample_grid import SampleGrid, draw_samples, make_grid, read_sheet, sample_columns
from autotune.reports.tables import candidate_row, front_rows, optional_columns, refuted_rows, to_csv, to_markdown
from autotune.reports.wording import wording
from autotune.spaces.error_scale import ErrorScale, error_scale
from autotune.spaces.front import PICKS, baseline_of, pick, quality_name, reported_measurement, study_front
from autotune.spaces.study_record import Candidate, StudyRecord

LoadArtifact = Callable[[str], bytes | None]


def write_report(record: StudyRecord, load_artifact: LoadArtifact, folder: Path, storage: str | None = None) -> Path:
    """Write the report of a study into `folder`, made if missing, and return the path of its HTML page.

    Files: `report.html`, `report.md`, `front.png`, `samples.png`, `progress.png`, `schedule-<pick>.png`, `table.md`,
    `table.csv`, and `front-quality.png` where the front was chosen by another quality than the error. Each is written
    whole or not at all. The same record and artifacts give the same bytes.

    Args:
        record: the study.
        load_artifact: gives the bytes that the study kept under a name, or None; a missing image is reported as such.
        folder: where to write.
        storage: the database of the study, for the lines that export from it; None for the default one. A server,
            whose URL may hold a password, is not named in them.

    Raises:
        StorageError: a file can't be written.
        UsageError: the study's settings name an unknown objective.
    """
    write_files(report_files(record, load_artifact, storage), folder)
    return folder / "report.html"


def report_files(record: StudyRecord, load_artifact: LoadArtifact, storage: str | None = None) -> dict[str, bytes]:
    """The report's files by name, as `write_report` writes them."""
    words, front = wording(error_scale(record)), study_front(record)
    picks = _ordered(pick(front, record))
    points, cost, history = study_points(record), cost_name(record), arrivals(record)
    plot = FrontPlot(points=points, front=frozenset(c.schedule_hash for c in front), picks=picks, cost=cost)
    quality = _quality_figure(plot, quality_name(record), words.scale)
    rows = front_rows(record)
    by_hash = {str(row["schedule_hash"]): row for row in rows}
    families = family_rows(record, points, front, cost, history)
    findings = (*chosen_by(record), *sentences(families, points, plot.members, cost), *taken_off(record))
    default = baseline_of(record)
    baseline = None if default is None or reported_measurement(default) is None else candidate_row(default, [])
    samples = _samples(record, default, picks, load_artifact)
    figure = render("front", partial(draw_front, plot), [(p.cost, p.error) for p in plot.marked])
    progress = render("progress", partial(draw_progress, history))
    sections = pick_sections(record, picks, by_hash, storage)
    what_to_do = advice(sections, baseline, words, quality_name(record))
    page = render_page(
        record,
        words=words,
        picks=sections,
        advice=what_to_do,
        baseline=baseline,
        optional=optional_columns(rows),
        front={
            "figure": figure,
            "quality": quality,
            "dots": front_dots(plot, by_hash, record.name, storage),
            "cost": cost,
            "hypervolume": volume([(p.cost, p.error) for p in plot.members]),
            "outside": outside_frame(plot),
            "measured": len(points),
            "rows": rows,
            "mixed": len({row["source"] for row in rows}) > 1,
            "families": families,
            "arms": any(row.arms for row in families),
            "sentences": findings,
        },
        progress=progress,
        samples=samples,
    )
    plots = {"front.png": figure.png} | ({} if quality is None else {"front-quality.png": quality.png})
    text = report_markdown(
        record, words=words, picks=sections, advice=what_to_do, plots=tuple(plots), rows=rows, baseline=baseline,
        families=families, findings=findings,
    )  # fmt: skip
    return {
        **plots,
        **{f"schedule-{s.name}.png": s.figure.png for s in sections if s.drawn_above is None},
        "samples.png": render_png(partial(draw_samples, samples, words.scale)),
        "progress.png": progress.png,
        "table.md": to_markdown([*rows, *refuted_rows(record)]).encode(),
        "table.csv": to_csv([*rows, *refuted_rows(record)]).encode(),
        "report.md": text.encode(),
        "report.html": page.encode(),
    }


def _quality_figure(plot: FrontPlot, quality: str, scale: ErrorScale) -> Rendered | None:
    """The front in the quality that it was chosen by, if that is not the error."""
    points = () if quality == scale.metric else by_quality(plot.points, quality)
    return render("quality", partial(draw_front, replace(plot, points=points, quality=quality))) if points else None


def _ordered(picks: Mapping[str, Candidate]) -> dict[str, Candidate]:
    return {name: picks[name] for name in PICKS if name in picks}


def _samples(
    record: StudyRecord, baseline: Candidate | None, picks: Mapping[str, Candidate], load_artifact: LoadArtifact
) -> SampleGrid:
    """The contact sheets of the default run and the picks, as far as they were kept."""
    shown = {c.schedule_hash for c in (*picks.values(), *([baseline] if baseline else []))}
    sheets = {key: read_sheet(load_artifact(name)) for key, name in sorted(record.images.items()) if key in shown}
    return make_grid(sample_columns(baseline, picks, sheets), record)
