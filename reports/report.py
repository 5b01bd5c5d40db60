"""The report of a study: one self-contained HTML page, the same figures as PNG, the front as Markdown and CSV."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from autotune.reports.figure import Rendered, render, render_png
from autotune.reports.finding import family_rows, sentences
from autotune.reports.folder import write_files
from autotune.reports.front_figure import FrontPlot, draw_front, outside_frame
from autotune.reports.heat_map import cell_states, draw_heat_map
from autotune.reports.page import PickSection, render_page
from autotune.reports.point import cost_name, study_points, volume
from autotune.reports.progress_figure import draw_progress, hypervolume_history
from autotune.reports.sample_grid import SampleRow, draw_samples, read_sheet
from autotune.reports.tables import Row, candidate_row, front_rows, refuted_rows, to_csv, to_markdown
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.front import PICKS, baseline_of, pick, reported_measurement, study_front
from autotune.spaces.study_record import Candidate, StudyRecord

LoadArtifact = Callable[[str], bytes | None]


def write_report(record: StudyRecord, load_artifact: LoadArtifact, folder: Path) -> Path:
    """Write the report of a study into `folder`, made if missing, and return the path of its HTML page.

    Files: `report.html`, `front.png`, `samples.png`, `progress.png`, `heatmap-<pick>.png`, `table.md`, `table.csv`.
    Each is written whole or not at all. The same record and artifacts give the same bytes.
    `load_artifact` gives the bytes that the study kept under a name, or None; a missing image is reported as such.

    Raises:
        StorageError: a file can't be written.
        UsageError: the study's settings name an unknown objective.
    """
    write_files(report_files(record, load_artifact), folder)
    return folder / "report.html"


def report_files(record: StudyRecord, load_artifact: LoadArtifact) -> dict[str, bytes]:
    """The report's files by name, as `write_report` writes them."""
    front = study_front(record)
    picks = pick(front, record)
    points, cost = study_points(record), cost_name(record)
    plot = FrontPlot(points=points, front=frozenset(c.schedule_hash for c in front), picks=_ordered(picks), cost=cost)
    rows = front_rows(record)
    families = family_rows(record, points, front, cost)
    baseline = baseline_of(record)
    samples = _sample_rows(record, baseline, plot.picks, load_artifact)
    front_figure = render("front", partial(draw_front, plot))
    progress = render("progress", partial(draw_progress, hypervolume_history(record)))
    sections = tuple(_pick_section(name, candidate, rows, record) for name, candidate in plot.picks.items())
    page = render_page(
        record,
        picks=sections,
        baseline=None if baseline is None or reported_measurement(baseline) is None else candidate_row(baseline, []),
        front={
            "figure": front_figure,
            "cost": cost,
            "hypervolume": volume([(p.cost, p.deviation) for p in plot.members]),
            "outside": outside_frame(plot),
            "measured": len(points),
            "rows": rows,
            "mixed": len({row["source"] for row in rows}) > 1,
            "families": families,
            "sentences": sentences(families, points, plot.members),
        },
        progress=progress,
        samples=samples,
    )
    return {
        "front.png": front_figure.png,
        **{f"heatmap-{section.name}.png": section.heat_map.png for section in sections},
        "samples.png": render_png(partial(draw_samples, samples)),
        "progress.png": progress.png,
        "table.md": to_markdown([*rows, *refuted_rows(record)]).encode(),
        "table.csv": to_csv([*rows, *refuted_rows(record)]).encode(),
        "report.html": page.encode(),
    }


def _ordered(picks: Mapping[str, Candidate]) -> dict[str, Candidate]:
    return {name: picks[name] for name in PICKS if name in picks}


def _pick_section(name: str, candidate: Candidate, rows: Sequence[Row], record: StudyRecord) -> PickSection:
    row = next(row for row in rows if row["schedule_hash"] == candidate.schedule_hash)
    heat_map = _heat_map(name, candidate, record)
    states = cell_states(candidate.schedule, record.inventory)
    kept = None if states is None else float((states != CacheAction.RECOMPUTE).mean())
    return PickSection(name=name, row=row, schedule=candidate.schedule, heat_map=heat_map, reused=kept)


def _heat_map(name: str, candidate: Candidate, record: StudyRecord) -> Rendered:
    measurement = reported_measurement(candidate)
    n_calls = candidate.schedule.n_steps if measurement is None else measurement.network_calls
    return render(f"heatmap-{name}", partial(draw_heat_map, candidate.schedule, record.inventory, n_calls))


def _sample_rows(
    record: StudyRecord, baseline: Candidate | None, picks: Mapping[str, Candidate], load_artifact: LoadArtifact
) -> tuple[SampleRow, ...]:
    """The default run's row, then one per distinct pick."""
    titles: dict[str, str] = {}
    if baseline is not None:
        titles[baseline.schedule_hash] = "default run"
    labels = {c.schedule_hash: c.label for c in picks.values()}
    for name, candidate in picks.items():
        key = candidate.schedule_hash
        titles[key] = f"{titles[key]} = {name}" if key in titles else name
    rows = []
    for key, title in titles.items():
        artifact = record.images.get(key)
        sheet = None if artifact is None else read_sheet(load_artifact(artifact))
        rows.append(SampleRow(title=f"{title}: {labels[key]}" if key in labels else title, image=sheet))
    return tuple(rows)
