"""What fewer bits do to each layer: scored once in the default run, and then solved for any mean of bits."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from autotune.evaluators.layer_grids import HIGH, LOW, LayerGrids
from autotune.evaluators.reference import ArtifactCache
from autotune.evaluators.table_fit import Run, batches
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

PROTOCOL = "1"
"""Version of the code that scores."""


class BitSensitivities:
    """What fewer bits do to each layer of a pipeline, scored once in its default run; any budget is solved with it."""

    def __init__(
        self, pipe: Any, condition: Condition, inventory: Inventory, run: Run, artifacts: ArtifactCache | None
    ) -> None:
        """Sensitivities under a condition; `artifacts` keep them between processes."""
        self._pipe, self._condition, self._inventory, self._run = pipe, condition, inventory, run
        self._artifacts = artifacts
        self._known: dict[str, dict[str, list[float]]] = {}

    def image_runs(self, some: Fidelity) -> int:
        """What `of` will cost: a run to record ranges, and one that takes each layer thrice more; 0 if it is known."""
        return 0 if self._find(some) is not None else 5 * len(some.prompts)

    def of(self, some: Fidelity, stop: Callable[[], bool] = lambda: False) -> Mapping[str, Sequence[float]]:
        """The mean square of the error of each layer's output over that of the output, with `LOW` and `HIGH` bits.

        Raises:
            ScheduleError: `stop` says that the time is over.
        """
        known = self._find(some)
        if known is None:
            default = Schedule(n_steps=self._condition.n_steps)
            grids = LayerGrids(self._pipe, default, self._inventory, self._run)
            parts = partial(batches, some, self._condition.batch_size, stop)
            grids.record_ranges(parts())
            errors = grids.errors(grids.uniform(HIGH), parts(), compared=(LOW, HIGH))
            known = {name: [errors.relative(name, bits) for bits in (LOW, HIGH)] for name in errors.sizes}
            self._known[some.hash] = known
            if self._artifacts is not None:
                self._artifacts.save(self._name(some), json.dumps(known).encode(), "sensitivity")
        return known

    def _find(self, some: Fidelity) -> dict[str, list[float]] | None:
        if some.hash not in self._known and self._artifacts is not None:
            stored = self._artifacts.load(self._name(some))
            if stored is not None:
                self._known[some.hash] = json.loads(stored)
        return self._known.get(some.hash)

    def _name(self, some: Fidelity) -> str:
        return f"sensitivity/{PROTOCOL}/{self._condition.hash}/{some.hash}"
