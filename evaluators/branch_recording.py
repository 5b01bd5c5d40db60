"""The branch-table job: outputs of residual branches, watched during default runs of the unmodified pipeline."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.branch_store import tensors_of
from autotune.evaluators.leaf_errors import MAX_VALUES, THINNING, thinned_samples
from autotune.evaluators.reference import ArtifactCache
from autotune.evaluators.step_hook import before_each_step, hooked
from autotune.spaces.branch_tables import METRICS, BranchTables, Metric
from autotune.spaces.cache_unit import cache_units
from autotune.spaces.condition import Condition
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

MAX_SAMPLES = 64
"""Samples after which further runs are not looked at."""

_SEPARATOR = "\n"
_MEAN, _SPREAD = "mean.", "spread."


def load_or_record_branches(
    pipe: Any,
    condition: Condition,
    fidelity: Fidelity,
    inventory: Inventory,
    n_calls: int,
    run: Callable[[Schedule], object],
    artifacts: ArtifactCache | None,
) -> BranchTables:
    """How the outputs of the inventory's units change over default runs, read back if known.

    Args:
        pipe: the pipeline.
        condition: what the runs are made under.
        fidelity: prompts and seeds of the runs.
        inventory: the sites.
        n_calls: network calls of a default run.
        run: executes a schedule on the fidelity.
        artifacts: where tables are kept, as safetensors.

    Raises:
        EvaluatorError: a run has another number of calls.
        ScheduleError: a branch returns NaN or infinite values.
    """
    name = f"branches/{THINNING}/{MAX_VALUES}/{MAX_SAMPLES}/{condition.hash}/{fidelity.hash}"
    stored = artifacts.load(name) if artifacts is not None else None
    if stored is not None:
        return _from_bytes(stored)
    recorder = BranchRecorder(n_calls, [unit.name for unit in cache_units(inventory)])
    with _watching(pipe, recorder):
        run(Schedule(n_steps=condition.n_steps))
    tables = recorder.tables()
    if artifacts is not None:
        artifacts.save(name, _to_bytes(tables), "branches")
    return tables


class BranchRecorder:
    """Fed with the outputs of units in each network call of full runs; compares them when a run ends.

    Of each sample's output `MAX_VALUES` elements at most are kept, evenly spread, until the run ends: n_calls x units x
    16 KiB for a sample. The tables are those of `BranchTables`, one per sample and guidance branch.
    """

    def __init__(self, n_calls: int, units: Sequence[str]) -> None:
        self.units = tuple(units)
        self._n_calls = n_calls
        self._outputs: dict[tuple[str, int], list[torch.Tensor]] = {}
        self._ordinal: dict[str, int] = {}
        self._call = 0
        self._moments = [_Moments(n_calls) for _ in self.units]

    def feed(self, unit: str, value: Any) -> None:
        """Take what a unit returned; guidance in two calls feeds it twice before `advance`."""
        if self._is_full:
            return
        ordinal = self._ordinal.get(unit, 0)
        self._ordinal[unit] = ordinal + 1
        now = torch.cat([thinned_samples(tensor) for tensor in tensors_of(value)], dim=1)
        self._outputs.setdefault((unit, ordinal), []).append(now)

    def advance(self) -> None:
        """Go to the next call; the one after the last begins another run.

        Raises:
            EvaluatorError: at the end of a run, a unit was not fed in each of its calls.
        """
        self._ordinal.clear()
        self._call += 1
        if self._call < self._n_calls:
            return
        self._call = 0
        for (unit, _), outputs in self._outputs.items():
            if len(outputs) != self._n_calls:
                raise EvaluatorError(
                    f"a branch must run once per network call; {unit} ran {len(outputs)} times in {self._n_calls} calls"
                )
            moments = self._moments[self.units.index(unit)]
            for sample in torch.stack(outputs, dim=1):
                moments.add(pairwise_tables(sample))
        self._outputs.clear()

    def tables(self) -> BranchTables:
        """Mean and standard deviation over all samples.

        Raises:
            EvaluatorError: no run has been fed, or the last one is not complete.
        """
        if self._call or not all(moments.n for moments in self._moments):
            raise EvaluatorError(
                f"branch tables need complete runs of {self._n_calls} calls; got {self._call} of the last; "
                "feed the rest"
            )
        means = np.stack([moments.mean for moments in self._moments], axis=1)
        spreads = np.stack([np.sqrt(moments.squares / moments.n) for moments in self._moments], axis=1)
        return BranchTables(
            units=self.units,
            mean=dict(zip(METRICS, means, strict=True)),
            spread=dict(zip(METRICS, spreads, strict=True)),
            n_samples=self._moments[0].n,
        )

    @property
    def _is_full(self) -> bool:
        return self._moments[0].n >= MAX_SAMPLES


class _Moments:
    """Mean and sum of squared deviations of one unit's tables, in one pass (Welford): (n_metrics, n_calls, n_calls)."""

    def __init__(self, n_calls: int) -> None:
        self.n = 0
        self.mean, self.squares = np.zeros((2, len(METRICS), n_calls, n_calls))

    def add(self, tables: dict[Metric, NDArray[np.float64]]) -> None:
        now = np.stack([tables[metric] for metric in METRICS])
        self.n += 1
        before = now - self.mean
        self.mean += before / self.n
        self.squares += before * (now - self.mean)


def pairwise_tables(outputs: torch.Tensor) -> dict[Metric, NDArray[np.float64]]:
    """The table of each metric over pairs of calls (n_calls, n_calls), of one sample's outputs (n_calls, n_values).

    Outputs that are zero in both calls count as alike.
    """
    values, n = outputs.double(), outputs.shape[1]
    norms = values.norm(dim=1)
    units = values / norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    both_zero = (norms == 0.0)[:, None] & (norms == 0.0)
    ordered = values.sort(dim=1).values
    squares = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    tables: dict[Metric, torch.Tensor] = {
        "cosine": torch.where(both_zero, 1.0, (units @ units.T).clamp(-1.0, 1.0)),
        "l1": torch.cdist(values, values, p=1.0) / n,
        "mse": squares / n,
        "l2": squares.sqrt(),
        "wasserstein": torch.cdist(ordered, ordered, p=1.0) / n,
    }
    return {metric: table.cpu().numpy() for metric, table in tables.items()}


def _to_bytes(tables: BranchTables) -> bytes:
    arrays = {_MEAN + metric: np.ascontiguousarray(table) for metric, table in tables.mean.items()}
    arrays |= {_SPREAD + metric: np.ascontiguousarray(table) for metric, table in tables.spread.items()}
    arrays["n_samples"] = np.array([tables.n_samples])
    arrays["units"] = np.frombuffer(_SEPARATOR.join(tables.units).encode(), np.uint8)
    return save(arrays)


def _from_bytes(stored: bytes) -> BranchTables:
    data = load(stored)
    return BranchTables(
        units=tuple(data["units"].tobytes().decode().split(_SEPARATOR)),
        mean={metric: data[_MEAN + metric] for metric in METRICS},
        spread={metric: data[_SPREAD + metric] for metric in METRICS},
        n_samples=int(data["n_samples"][0]),
    )


@contextlib.contextmanager
def _watching(pipe: Any, recorder: BranchRecorder) -> Iterator[None]:
    """Feed a recorder with what each unit's leaf returns, once per step of the scheduler."""
    denoiser = find_adapter(pipe).denoiser_of(pipe)
    handles = [
        denoiser.get_submodule(unit).register_forward_hook(functools.partial(_feed, recorder, unit))
        for unit in recorder.units
    ]
    with hooked(handles), before_each_step(pipe.scheduler, recorder.advance):
        yield


def _feed(recorder: BranchRecorder, unit: str, module: Any, args: Any, result: Any) -> None:
    recorder.feed(unit, result)
