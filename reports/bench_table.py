"""What a bench found, as raw figures and as tables and sentences for people."""

import statistics
from collections.abc import Mapping

from autotune.reports.figure_text import figure_text, number_text
from autotune.reports.tables import OPTIONAL, TITLES, WITH_INTERVAL, Row, figures_of, intervals
from autotune.reports.text_table import TextTable
from autotune.reports.wording import wording
from autotune.spaces.bench_result import BenchResult, Contestant, paired_difference
from autotune.spaces.claim import Claim, claim_of
from autotune.spaces.error_scale import scale_of
from autotune.spaces.schedule import schedule_hash

_FIGURES = {
    "latency_ms": "ms/image",
    "speedup": "speed-up",
    "deviation": "deviation",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "alignment": "alignment",
    **{name: TITLES.get(name, name) for name in OPTIONAL},
}

_PRECISION = (
    "The schedule's quantization is computed in floating point: its quality is that of its grids, and its latency says "
    "nothing of low precision. Real kernels (--kernels) have a row of their own, of the speed and the quality of their "
    "own arithmetic."
)


def bench_rows(result: BenchResult) -> list[Row]:
    """Rows of the default run, the schedule, and if there are any kernels and rival (`role`), as `front_rows` has them.

    `difference` is the mean error less the rival's, paired by prompt; None where there is no rival, or it is that.
    """
    contestants = [("default", result.default), ("schedule", result.schedule)]
    if result.kernels is not None:
        contestants.append(("kernels", result.kernels))
    if result.rival is not None and result.rival is not result.default:
        contestants.append(("rival", result.rival))
    return [_row(role, contestant, result.rival) for role, contestant in contestants]


def bench_json(result: BenchResult) -> dict[str, object]:
    """Everything that a bench found, JSON types only.

    `rows` are those of `bench_rows`, `tried` the same of every rival that was measured; `rival` is the label
    of the rival, which may be the default run's, `verdict` a sentence.
    `claimed` holds what the file says, `shift` how far this run is from it: the ratio of speed-ups and of latencies
    (here over there), and differences of quality (here less there). `differences` maps fields of the condition to the
    file's value and the value here.
    """
    claim, seeds = claim_of(result.file.measured), result.fidelity.seeds
    return {
        "file": result.source,
        "schedule_hash": schedule_hash(result.file.schedule),
        "model": result.condition.model,
        "prompts": {"from": result.prompts_from, "number": len(seeds), "first_seed": seeds[0], "last_seed": seeds[-1]},
        "repeats": result.repeats,
        "rows": bench_rows(result),
        "rival": None if result.rival is None else result.rival.label,
        "verdict": verdict(result),
        "tried": [_row("tried", one, None) for one in result.rivals],
        "failures": list(result.failures),
        "claimed": None if claim is None else _claimed(claim),
        "shift": None if claim is None else shift(result, claim),
        "differences": {name: list(both) for name, both in result.differences.items()},
    }


def csv_rows(result: BenchResult) -> list[Row]:
    """The rows of `bench_rows` and all that was tried, flat: each interval in two columns `_low` and `_high`."""
    rows = [*bench_rows(result), *(_row("tried", one, None) for one in result.rivals)]
    figures = [name for name in (*_FIGURES, "difference") if any(name in row for row in rows)]
    flat = []
    for row in rows:
        found = row["intervals"]
        assert isinstance(found, Mapping)
        ends = {name: found.get(name, (None, None)) for name in figures}
        cells = {name: value for name, value in row.items() if name != "intervals"}
        flat.append(
            cells | {f"{name}_{end}": ends[name][i] for name in figures for i, end in enumerate(("low", "high"))}
        )
    return flat


def verdict(result: BenchResult) -> str:
    """One sentence: whether the schedule deviates less than the rival, and whether that is more than chance."""
    rival, own = result.rival, result.schedule.measurement
    if rival is None:
        return f"No rival: all {len(result.rivals)} that were measured are slower than the schedule."
    name = "the default run" if rival is result.default else f"the rival ({rival.label})"
    difference, words = paired_difference(own, rival.measurement), wording(scale_of(own))
    if difference.interval is None:
        return f"No verdict against {name}: one {words.unit} says nothing of others."
    low, high = difference.interval
    if low == high == 0.0:
        return f"The schedule {words.alike.format(name)}."
    if low <= 0.0 <= high:
        return f"The schedule and {name} can't be told apart by {words.metric} on these {own.n_prompts} {words.units}."
    if words.scale.is_share:
        what = f"fails in {100 * abs(difference.mean):.1f} points {'fewer' if high < 0.0 else 'more'} of the episodes"
    else:
        change = abs(difference.mean) / rival.measurement.error
        what = f"deviates {100 * change:.0f} % {'less' if high < 0.0 else 'more'}"
    return f"The schedule {what} than {name}, which takes no more time or does no more work."


def shift(result: BenchResult, claim: Claim) -> dict[str, float]:
    """How far this run is from what the file says; see `bench_json`."""
    here = result.schedule.measurement
    found: dict[str, float] = {}
    if claim.latency_ms:
        found["latency_ms"] = statistics.median(here.latency_ms) / claim.latency_ms
    if claim.speedup:
        found["speedup"] = 1.0 / here.relative_latency / claim.speedup
    quality = {name: here.mean(name) - value for name, value in claim.quality.items() if name in here.quality}
    return found | quality


def bench_tables(result: BenchResult) -> tuple[TextTable, ...]:
    """The contestants, and beside them what the file says of itself, for people."""
    seeds, rows, words = result.fidelity.seeds, bench_rows(result), wording(scale_of(result.schedule.measurement))
    notes = [
        f"{len(seeds)} {words.units} of {result.prompts_from}, seeds {seeds[0]} to {seeds[-1]}; {result.repeats} timed "
        "runs of each, in turn with the default run.",
        f"The rival is the {words.least} of {len(result.rivals) + 1} plain runs, among those that are not measurably "
        "slower than the schedule or do no more work. Speed-ups compare; latencies drift with the machine.",
        *result.failures,
        *([] if result.file.schedule.quantization is None else [_PRECISION]),
        verdict(result),
    ]
    titles = _FIGURES | {"latency_ms": f"ms/{words.run}"}
    shown = {name: title for name, title in titles.items() if any(row.get(name) is not None for row in rows)}
    columns = {
        "role": "",
        "label": "what",
        "network_calls": "calls",
        **shown,
        "difference": f"{words.errors} vs rival",
    }
    contest = TextTable(name="bench", title=f"{result.source} on {result.condition.model}", columns=columns, rows=rows,
                        notes=notes)  # fmt: skip
    return contest, _claim_table(result)


def _row(role: str, contestant: Contestant, rival: Contestant | None) -> Row:
    own = contestant.measurement
    found: Row = {name: list(ends) for name, ends in intervals(own, (*WITH_INTERVAL, *OPTIONAL)).items()}
    row: Row = {"role": role, "label": contestant.label, **figures_of(own), "difference": None}
    if rival is not None and rival is not contestant:
        difference = paired_difference(own, rival.measurement)
        row["difference"] = difference.mean
        found |= {} if difference.interval is None else {"difference": list(difference.interval)}
    return row | {"intervals": found}


def _claimed(claim: Claim) -> dict[str, object]:
    figures = {name: value for name in ("latency_ms", "speedup") if (value := getattr(claim, name)) is not None}
    return {"measured_on": claim.measured_on, **figures, **claim.quality}


def _claim_table(result: BenchResult) -> TextTable:
    claim = claim_of(result.file.measured)
    columns = {"figure": "figure", "claimed": "in the file", "here": "here", "shift": "here against the file"}
    if claim is None:
        notes, rows = ["Nothing: the file was not measured."], []
    else:
        notes, rows = _conditions(result, claim), _claim_rows(result, claim)
    return TextTable(name="claim", title="What the file says of itself", columns=columns, rows=rows, notes=notes)


def _conditions(result: BenchResult, claim: Claim) -> list[str]:
    on = claim.measured_on.replace("_", "-")
    units = wording(scale_of(result.schedule.measurement)).units
    notes = [f"Measured on {on} {units} of its study; other {units} and seeds move figures too."]
    changed = ", ".join(
        name if isinstance(here, dict) else f"{name} (was {str(then)[:40]}, is {str(here)[:40]})"
        for name, (then, here) in result.differences.items()
    )
    return [*notes, f"Since then changed: {changed}."] if changed else notes


def _claim_rows(result: BenchResult, claim: Claim) -> list[Row]:
    here, there = _row("schedule", result.schedule, None), _claimed(claim)
    return [
        {
            "figure": _FIGURES.get(name, name),
            "claimed": number_text(name, there[name]),
            "here": figure_text(here, name),
            "shift": f"{100 * (value - 1):+.1f} %" if name in ("latency_ms", "speedup") else f"{value:+.3g}",
        }
        for name, value in shift(result, claim).items()
    ]
