"""An evaluator that replays a table of measurements, so that searches can be compared without a model or a device."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotune.evaluators.recorded_latency import RecordedLatency
from autotune.evaluators.recorded_quality import QualityModel, scaled_values
from autotune.evaluators.schedule_features import ENCODINGS
from autotune.evaluators.surrogate import Accuracy, cross_validate
from autotune.evaluators.tabulated import SimulatedTime
from autotune.spaces.branch_tables import BranchTables
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_memory import CacheMemory
from autotune.spaces.cache_plan import plan_macs
from autotune.spaces.column_fit import ColumnFit, FitTarget
from autotune.spaces.cost_model import CostModel
from autotune.spaces.edge_costs import EdgeCosts, EdgeSource
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.recorded_table import RecordedTable
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash
from autotune.spaces.segment_costs import COST_KEYS, SegmentCosts, segment_table
from autotune.spaces.trace import Trace

Array = NDArray[np.float64]

MIN_ROWS = 50
"""Rows of a kind below which nothing is predicted for it."""

EDGES_LONGEST = 8
GRID_TOLERANCE = 0.01
"""A recorded grid so close to the expected one, as a share of the starting timestep, is the pipeline's own."""


class RecordedEvaluator:
    """Answers from a table of measurements; implements `autotune.evaluators.evaluator.Evaluator` without torch.

    A schedule that stands in the table, measured on the prompts that are asked for, has its recorded values, exactly.
    Another one is predicted if it is of a kind (`ENCODINGS`) of which the table holds `MIN_ROWS` rows on all prompts:
    quality by `QualityModel`, MACs as they are, latency by `RecordedLatency`, peak memory as the median of the
    rows. All else is a failure: caches on other samplers, fitted corrections, and whatever the table has too few of.

    Prompts and seeds must be among the table's, its `fidelity`, in any order and number. `clock`, if given, is advanced
    by what a measurement would cost. The same schedule on the same prompts always measures the same.
    """

    protocol = "recorded-1"
    guided = False
    converges = True

    def __init__(self, table: RecordedTable, *, clock: SimulatedTime | None = None, seed: int = 0) -> None:
        self.condition, self.inventory, self.fidelity = table.condition, table.inventory, table.fidelity
        self._table, self._clock, self._seed = table, clock, seed
        self._rows = {schedule_hash(row.schedule): row.outcome for row in table.rows}
        pairs = zip(table.fidelity.prompts, table.fidelity.seeds, strict=True)
        self._columns = {pair: i for i, pair in enumerate(pairs)}
        self._models: dict[str, QualityModel | None] = {}
        self._grids: dict[int, tuple[float, ...]] = {}

    def own_timesteps(self, n_steps: int) -> tuple[float, ...]:
        """The pipeline's own grid where a recorded schedule has it, else one that is made by its rule.

        That is an even spacing from the starting timestep, shifted on a flow. At the default number of steps it has as
        many entries as the default run calls the network.
        """
        if n_steps not in self._grids:
            self._grids[n_steps] = self._own_grid(n_steps)
        return self._grids[n_steps]

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        """The recorded measurement, or a prediction with `repeats` timings.

        Raises:
            EvaluatorError: a prompt with its seed is not in the table.
            ScheduleError: the cache plan does not fit the inventory.
        """
        columns = self._columns_of(fidelity)
        canonical = canonical_schedule(schedule, self.inventory)
        recorded = self._rows.get(schedule_hash(canonical))
        if isinstance(recorded, Failure):
            return recorded
        if recorded is not None and max(columns) < recorded.n_prompts:
            outcome = _part(recorded, columns)
        else:
            predicted = self._predicted(canonical, columns, repeats)
            if predicted is None:
                reason = "the table does not hold this schedule, nor enough of its kind to predict it"
                return Failure(kind=FailureKind.INVALID, reason=reason)
            outcome = predicted
        if self._clock is not None:
            self._clock.advance(outcome.wall_s)
        return outcome

    def accuracy(self, kind: str) -> Accuracy | None:
        """How well held-out rows of a kind are predicted: the mean over the prompts of the deviation's logarithm.

        None where the table has too few of them.
        """
        features, qualities = self._training(kind)
        if len(features) < MIN_ROWS:
            return None
        logs = scaled_values("deviation", [quality["deviation"] for quality in qualities])
        return cross_validate(features, logs.mean(axis=1), self._seed)

    def fit(
        self,
        schedule: Schedule,
        column: FitTarget,
        fidelity: Fidelity,
        *,
        timeout_s: float | None = None,
        max_image_runs: int | None = None,
        quick: bool = False,
    ) -> ColumnFit:
        """Nothing: a table holds no gradients.

        Raises:
            EvaluatorError: always.
        """
        raise EvaluatorError(f"a table can't fit the {column} of a schedule; replay a family that fits nothing")

    def contact_sheet(self, schedule: Schedule, fidelity: Fidelity, indices: Sequence[int]) -> bytes:
        """A PNG of grey tiles: a table holds no images."""
        size = (self.condition.width * len(indices), self.condition.height)
        buffer = io.BytesIO()
        Image.new("RGB", size, (128, 128, 128)).save(buffer, format="PNG")
        return buffer.getvalue()

    def edge_costs(self, fidelity: Fidelity, n_prompts: int, source: EdgeSource = "hybrid") -> EdgeCosts:
        """A stand-in, since a table holds no features: a reuse costs its age, whatever the call."""
        n, width = len(self.own_timesteps(self.condition.n_steps)), EDGES_LONGEST + 1
        gap = np.arange(width, dtype=np.float64)
        costs = np.broadcast_to((gap * (gap - 1.0) / 2.0)[:, None], (n, width, width, width, 1))
        return EdgeCosts((CacheAction.REUSE,), np.array(costs))

    def branch_tables(self, fidelity: Fidelity, n_prompts: int) -> BranchTables:
        """Nothing: a table holds no outputs of branches.

        Raises:
            EvaluatorError: always.
        """
        raise EvaluatorError("a table holds no outputs of branches; replay a family that needs none")

    def segment_costs(self, fidelity: Fidelity, n_prompts: int) -> SegmentCosts:
        """A stand-in like `edge_costs`: a reuse costs its age, whatever the call."""
        fidelity.first(n_prompts)
        n = len(self.own_timesteps(self.condition.n_steps))
        changes = np.tile(np.arange(min(n, EDGES_LONGEST), dtype=np.float64), (n, 1))
        return SegmentCosts(dict.fromkeys(COST_KEYS, segment_table(changes)), changes.shape[1])

    def default_ms(self, fidelity: Fidelity) -> float:
        """The median of all recorded timings of the default run."""
        return self._latency.baseline_ms

    def cost_model(self, fidelity: Fidelity, rounds: int = 1) -> CostModel:
        """The latency that `score` predicts, without noise; a table holds no sizes, so cached values take 0 bytes."""
        n_sites = len(self.inventory)
        guided = self._baseline.baseline_macs > plan_macs(None, self.inventory, self._baseline.network_calls)
        return CostModel(
            latency=self._latency.without_noise(self.inventory, half=0.5 if guided else 1.0),
            memory=CacheMemory(value_bytes=((0,) * n_sites,), order=tuple(range(n_sites))),
            inventory=self.inventory,
            n_steps=self.condition.n_steps,
            n_calls=self._baseline.network_calls,
            batch_size=self.condition.batch_size,
        )

    def trace(self, fidelity: Fidelity, n_prompts: int, n_levels: int) -> Trace:
        """Nothing: a table holds no states.

        Raises:
            EvaluatorError: always.
        """
        raise EvaluatorError("a table holds no trace of the model; replay a family that needs none")

    def _own_grid(self, n_steps: int) -> tuple[float, ...]:
        n_calls = self._baseline.network_calls if n_steps == self.condition.n_steps else n_steps
        start, noise = self.condition.start_timestep, self.condition.noise_schedule
        share = np.linspace(1.0, 1.0 / n_calls, n_calls)
        if isinstance(noise, Flow):
            shift = np.exp(noise.mu)
            share = shift * share / (1.0 + (shift - 1.0) * share)
        expected = start * share
        grids = [row.schedule.time for row in self._table.rows]
        near = [grid for grid in grids if grid is not None and len(grid) == n_calls]
        nearest = min(near, key=lambda grid: _largest_gap(grid, expected), default=())
        if nearest and _largest_gap(nearest, expected) <= GRID_TOLERANCE * start:
            return nearest
        return tuple(expected.tolist())

    @cached_property
    def _baseline(self) -> Measurement:
        outcome = self._rows.get(schedule_hash(Schedule(n_steps=self.condition.n_steps)))
        if not isinstance(outcome, Measurement):
            raise EvaluatorError("a table must hold the pipeline's default run; record the study again from its start")
        return outcome

    @cached_property
    def _latency(self) -> RecordedLatency:
        return RecordedLatency(self._measurements, self._baseline.network_calls)

    @cached_property
    def _measurements(self) -> list[Measurement]:
        return [row.outcome for row in self._table.rows if isinstance(row.outcome, Measurement)]

    def _columns_of(self, fidelity: Fidelity) -> list[int]:
        pairs = list(zip(fidelity.prompts, fidelity.seeds, strict=True))
        for prompt, seed in pairs:
            if (prompt, seed) not in self._columns:
                raise EvaluatorError(
                    f"a replay can only use the table's prompts with their seeds; got {prompt!r} with seed {seed}"
                )
        return [self._columns[pair] for pair in pairs]

    def _training(self, kind: str) -> tuple[Array, list[dict[str, tuple[float, ...]]]]:
        """Features and metrics of the rows of a kind that were measured on all prompts."""
        features, qualities = [], []
        for row in self._table.rows:
            if isinstance(row.outcome, Measurement) and row.outcome.n_prompts == len(self._columns):
                encoded = self._encoded(kind, row.schedule)
                if encoded is not None:
                    features.append(encoded)
                    qualities.append(dict(row.outcome.quality))
        return np.array(features), qualities

    def _encoded(self, kind: str, schedule: Schedule) -> Array | None:
        return ENCODINGS[kind](schedule, self.condition, self.inventory, self._baseline.network_calls)

    def _model(self, kind: str) -> QualityModel | None:
        """The fitted model of a kind, made when it is first needed; None where the table has too few rows."""
        if kind not in self._models:
            features, qualities = self._training(kind)
            enough = len(features) >= MIN_ROWS
            self._models[kind] = QualityModel(features, qualities, self._seed) if enough else None
        return self._models[kind]

    def _predicted(self, schedule: Schedule, columns: list[int], repeats: int) -> Measurement | None:
        for kind in ENCODINGS:
            features = self._encoded(kind, schedule)
            model = None if features is None else self._model(kind)
            if features is None or model is None:
                continue
            drawn = _numbers_of(schedule_hash(schedule), repeats + 1)
            quality = model.predict(features, drawn[0])
            n_calls = schedule.n_steps if schedule.time is not None else self._baseline.network_calls
            branches = self._baseline.baseline_macs // plan_macs(None, self.inventory, self._baseline.network_calls)
            macs = branches * plan_macs(schedule.cache, self.inventory, n_calls)
            relative_macs = macs / self._baseline.baseline_macs
            latency_ms = self._latency.timings_ms(relative_macs, n_calls, drawn[1:])
            return Measurement(
                quality={name: tuple(values[columns].tolist()) for name, values in quality.items()},
                latency_ms=latency_ms,
                baseline_latency_ms=(self._latency.baseline_ms,) * repeats,
                macs=macs,
                baseline_macs=self._baseline.baseline_macs,
                network_calls=n_calls,
                peak_memory_bytes=int(np.median([m.peak_memory_bytes for m in self._measurements])),
                wall_s=self._latency.wall_s(latency_ms[0], len(columns)),
            )
        return None


def _part(measurement: Measurement, columns: list[int]) -> Measurement:
    """The measurement on some of its prompts, at their share of its cost."""
    if columns == list(range(measurement.n_prompts)):
        return measurement
    quality = {name: tuple(values[i] for i in columns) for name, values in measurement.quality.items()}
    return replace(measurement, quality=quality, wall_s=measurement.wall_s * len(columns) / measurement.n_prompts)


def _numbers_of(name: str, n: int) -> list[int]:
    """Random whole numbers that depend on the name alone."""
    digest = hashlib.sha256(name.encode()).digest()
    numbers: list[int] = np.random.default_rng(int.from_bytes(digest[:8], "big")).integers(0, 2**31, n).tolist()
    return numbers


def _largest_gap(grid: tuple[float, ...], expected: Array) -> float:
    return float(np.abs(np.array(grid) - expected).max())
