"""What became of the schedules that a study was given: at their source, here, refined, and beside the plain rival."""

import statistics

from autotune.reports.point import HELD_OUT, final_measurement
from autotune.reports.wording import wording
from autotune.spaces.error_scale import error_scale
from autotune.spaces.given_schedule import compare_given, record_given
from autotune.spaces.schedule import schedule_hash
from autotune.spaces.study_record import Candidate, StudyRecord

Row = dict[str, object]


def given_columns(record: StudyRecord) -> dict[str, str]:
    """The keys of `given_rows` that people see, with their headings."""
    words = wording(error_scale(record))
    return {
        "role": "role",
        "label": "what",
        "network_calls": "calls",
        "latency_ms": f"ms/{words.run}",
        "speedup": "speed-up",
        words.metric: words.metric,
        "source": "measured on",
    }


def given_rows(record: StudyRecord) -> list[Row]:
    """Four rows per given schedule; [] of a study without.

    `source` is what its file says, under its own condition. `given` is the schedule here, as it is or re-timed;
    `refined` the best that the search found at no more cost, which may be the same; `rival` the best of fewer steps at
    no more cost, left out where there is none. Deviations of the source count from another reference run. `remarks` of
    the given one say what of the file could not be taken along.
    """
    rows: list[Row] = []
    metric = error_scale(record).metric
    sources = {schedule_hash(given.schedule): given for given in record_given(record)}
    for compared in compare_given(record, sources):
        given = sources[compared.given.schedule_hash]
        source = given.source
        size = f"{source['width']}x{source['height']}"
        where = f"{source['model']}, {source['n_steps']} steps, {size}, guidance {source['guidance_scale']:g}"
        figures = {name: source.get(name) for name in ("network_calls", "latency_ms", "speedup", metric)}
        on = str(source.get("measured_on", "nothing")).replace("_", "-")
        rows.append({"role": "source", "label": where, **figures, "source": f"{on}, there"})
        rows.append(_row("given", compared.given, metric) | {"remarks": list(given.remarks)})
        rows.append(_row("refined", compared.refined, metric))
        if compared.rival is not None:
            rows.append(_row("rival", compared.rival, metric))
    return rows


def _row(role: str, candidate: Candidate, metric: str) -> Row:
    final = final_measurement(candidate)
    assert final is not None  # only what was measured is compared
    source, measurement = final
    return {
        "role": role,
        "label": candidate.label,
        "network_calls": measurement.network_calls,
        "latency_ms": statistics.median(measurement.latency_ms),
        "speedup": 1.0 / measurement.relative_latency,
        metric: measurement.mean(metric),
        "source": "held-out" if source == HELD_OUT else "calibration",
    }
