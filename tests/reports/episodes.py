"""The study as that of a policy: its schedules fail in more episodes where they deviated more."""

import dataclasses

import numpy as np

from autotune.spaces.evaluation import Evaluation, Measurement
from autotune.spaces.front import calibration_front
from autotune.spaces.study_record import StudyRecord

from .conftest import make_record

N_CALIBRATION, N_HELD_OUT = 64, 100
FAILURES_PER_DEVIATION = 1.2


def episodes_of(measurement: Measurement, n: int, seed: int) -> Measurement:
    """The measurement with n episodes in place of images; the same ones are hard for all schedules, more or less."""
    deviation = measurement.mean("deviation")
    hardness = np.random.default_rng(seed).permutation((np.arange(n) + 0.5) / n)
    success = hardness < 1.0 - min(1.0, FAILURES_PER_DEVIATION * deviation)
    quality = {
        "success": tuple(map(float, success)),
        "action-error": tuple((deviation * (0.5 + hardness)).tolist()),
    }
    return dataclasses.replace(measurement, quality=quality)


def made(evaluation: Evaluation, n: int, seed: int, fidelity: str) -> Evaluation:
    """An evaluation of episodes."""
    measurement = evaluation.measurement
    outcome = evaluation.outcome if measurement is None else episodes_of(measurement, n, seed)
    return dataclasses.replace(
        evaluation, key=f"episodes-{fidelity}-{evaluation.key}", fidelity=fidelity, outcome=outcome
    )


def make_policy_record() -> StudyRecord:
    """The study of `make_record` as a policy's, whose front and default run were run in new episodes too."""
    base = make_record(held_out=False)
    candidates = [
        dataclasses.replace(c, calibration=made(c.calibration, N_CALIBRATION, 1, "calibration"))
        for c in base.candidates
    ]
    record = dataclasses.replace(
        base,
        name="push-first",
        candidates=tuple(candidates),
        condition=dataclasses.replace(base.condition, model="push-policy"),
        settings={**base.settings, "objectives": ["latency", "success"], "held_out": ["push"] * N_HELD_OUT},
    )
    again = {c.number for c in calibration_front(record)} | {0}
    verified = (
        dataclasses.replace(c, held_out=made(base.candidates[c.number].calibration, N_HELD_OUT, 2, "held_out"))
        if c.number in again
        else c
        for c in candidates
    )
    return dataclasses.replace(record, candidates=tuple(verified))
