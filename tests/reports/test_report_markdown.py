import re
from dataclasses import replace

from autotune.reports.pick_section import export_line
from autotune.reports.report import report_files
from autotune.reports.tables import front_rows, to_markdown
from autotune.spaces.evaluation import Evaluation, Measurement
from autotune.spaces.front import pick, reported_measurement, study_front
from autotune.spaces.study_record import Candidate, StudyRecord


def test_lines_to_paste_name_the_database_unless_it_may_hold_a_password() -> None:
    line = "autotune export a --pick fast -o fast.schedule.json"
    for storage in (None, "postgresql://me:pw@db/x", "postgresql://db/x?password=pw"):
        assert export_line("a", "fast", storage) == line
    assert export_line("a", "fast", "sqlite:////tmp/x.db") == f"{line} --storage sqlite:////tmp/x.db"
    assert export_line("a", "fast", "my studies.db") == f"{line} --storage 'my studies.db'"


def test_markdown_can_be_read_alone(record: StudyRecord, files: dict[str, bytes]) -> None:
    text = files["report.md"].decode()
    picks = pick(study_front(record), record)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## What to use", "## Front", "## Pictures", "## Schedules", "## What each family contributed", "## Progress",
        "## Failures", "## Provenance",
    ]  # fmt: skip
    for name, candidate in picks.items():
        assert f"autotune export mini-flux-first --pick {name} -o {name}.schedule.json" in text
        assert f"| {name} | {1 / reported(candidate).relative_latency:.2f}x [" in text
    assert 'autotune.apply(pipe, "balanced.schedule.json")' in text
    assert to_markdown(front_rows(record)) in text
    assert "- Family cache-masks does not pay here" in text
    assert "CUDA out of memory: 1.2 GiB asked for, 0.3 GiB free" in text
    assert set(re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)) == {name for name in files if name.endswith(".png")}
    assert text.split("```")[1].strip() == "autotune export mini-flux-first --pick balanced -o balanced.schedule.json"
    provenance = text.split("## Provenance")[1]
    assert f"- condition_hash: {record.condition.hash}" in provenance
    assert all(len(line) < 280 for line in provenance.splitlines())
    tables = [block for block in text.split("\n\n") if block.startswith("| ")]
    for block in tables:
        lines = [line.replace("\\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1


def test_a_front_that_was_chosen_by_a_reward_is_told_by_it(record: StudyRecord) -> None:
    def rewarded(evaluation: Evaluation) -> Evaluation:
        measurement = evaluation.measurement
        if measurement is None:
            return evaluation
        rewards = tuple(0.4 - deviation for deviation in measurement.quality["deviation"])
        return replace(evaluation, outcome=replace(measurement, quality={**measurement.quality, "clip-score": rewards}))

    candidates = tuple(
        replace(c, calibration=rewarded(c.calibration), held_out=c.held_out and rewarded(c.held_out))
        for c in record.candidates
    )
    settings = {**record.settings, "objectives": ["latency", "clip-score"]}
    study = replace(record, candidates=candidates, settings=settings)
    files = report_files(study, lambda name: None)
    text = files["report.md"].decode()
    assert "- The front was chosen by clip-score, which the second plot shows." in text
    assert "![front](front-quality.png)" in text
    assert b"by the quality that the front was chosen by" in files["report.html"]
    assert files["front-quality.png"][:4] == b"\x89PNG"
    assert re.search(r"converged run and clip-score 0\.3\S+ \[0\.3\S+, 0\.\S+\], where the default run has", text)
    picks, front = (
        block for block in text.split("\n\n") if block.startswith(("| pick | speed-up", "| pick | schedule"))
    )
    for table in (picks, front):
        head, _, *lines = (line.split(" | ") for line in table.splitlines())
        assert all(re.fullmatch(r"0\.3\S+ \[0\.3\S+, 0\.\S+\]", line[head.index("clip-score")]) for line in lines)
    files = report_files(record, lambda name: None)
    assert "was chosen by" not in files["report.md"].decode()
    assert "front-quality.png" not in files


def reported(candidate: Candidate) -> Measurement:
    measurement = reported_measurement(candidate)
    assert measurement is not None
    return measurement
