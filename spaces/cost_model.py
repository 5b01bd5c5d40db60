"""What a schedule costs, worked out from measured parts: latency and memory of cached values, without a run."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autotune.spaces.cache_memory import CacheMemory
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Measurement
from autotune.spaces.inventory import Inventory, inventory_from_json
from autotune.spaces.latency_model import LatencyModel
from autotune.spaces.objective import GIGABYTE, MODELLED, Constraint
from autotune.spaces.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """A latency model and the sizes of cached values, of one model under one condition.

    `n_calls` is the number of network calls of the default run, whose schedule has `n_steps` steps; `batch_size` the
    images that are drawn together.
    """

    latency: LatencyModel
    memory: CacheMemory
    inventory: Inventory
    n_steps: int
    n_calls: int
    batch_size: int

    def latency_ms(self, schedule: Schedule) -> float:
        """Predicted milliseconds per image.

        The pipeline's own sampler is taken to call the network once per step, and as often more as in the default run.
        """
        return self.latency.run_time_ms(schedule, self.inventory, self._n_calls(schedule))

    def relative_latency(self, schedule: Schedule) -> float:
        """Predicted latency over that of the default run."""
        return self.latency_ms(schedule) / self.latency_ms(Schedule(n_steps=self.n_steps))

    def cache_bytes(self, schedule: Schedule) -> int:
        """Bytes of cached values and differences of the branches at their peak, of a whole batch."""
        return self.batch_size * self.memory.peak_bytes(schedule, self.inventory)

    def completed(self, schedule: Schedule, measurement: Measurement) -> Measurement:
        """The measurement of a schedule with what the model says of it.

        What a policy does is known from its run alone: its latency is the measured one, its memory that of the whole
        run.
        """
        if schedule.policy is not None:
            return dataclasses.replace(
                measurement,
                modelled_latency=measurement.relative_latency,
                cache_bytes=measurement.peak_memory_bytes,
            )
        return dataclasses.replace(
            measurement,
            modelled_latency=self.relative_latency(schedule),
            cache_bytes=self.cache_bytes(schedule),
        )

    def violates(self, schedule: Schedule, constraints: Sequence[Constraint]) -> bool:
        """Whether it is known without a run that a schedule breaks one of the limits."""
        limits = [limit for limit in constraints if limit.metric in MODELLED]
        if not limits or schedule.policy is not None:
            return False
        n_bytes = self.cache_bytes(schedule)
        told = dict(zip(MODELLED, (self.relative_latency(schedule), n_bytes, n_bytes / GIGABYTE), strict=True))
        return any(limit.excess(told[limit.metric]) > 0.0 for limit in limits)

    def _n_calls(self, schedule: Schedule) -> int:
        if schedule.time is not None:
            return schedule.n_steps
        if schedule.cache is not None:
            return schedule.cache.n_calls
        if schedule.guidance is not None:
            return len(schedule.guidance)
        return schedule.n_steps + self.n_calls - self.n_steps

    def to_bytes(self) -> bytes:
        """JSON that `cost_model_from_bytes` reads back."""
        data = {
            "latency": dataclasses.asdict(self.latency),
            "memory": dataclasses.asdict(self.memory),
            "inventory": self.inventory.to_json(),
        }
        numbers = {name: getattr(self, name) for name in ("n_steps", "n_calls", "batch_size")}
        return json.dumps({**data, **numbers}).encode()


def default_completed(measurement: Measurement) -> Measurement:
    """The default run's measurement with its costs while there is no model: the measured latency, and no cache."""
    return dataclasses.replace(measurement, modelled_latency=measurement.relative_latency, cache_bytes=0)


def cost_model_from_bytes(data: bytes) -> CostModel:
    """The cost model that `CostModel.to_bytes` wrote.

    Raises:
        ScheduleError: it did not write this.
    """
    try:
        values: dict[str, Any] = json.loads(data)
        latency: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.pop("latency").items()}
        memory = values.pop("memory")
        rows = tuple(tuple(row) for row in memory["value_bytes"])
        return CostModel(
            latency=LatencyModel(**latency),
            memory=CacheMemory(
                value_bytes=rows,
                order=tuple(memory["order"]),
                difference_bytes=memory.get("difference_bytes", 0),  # studies of before keep none
            ),
            inventory=inventory_from_json(values.pop("inventory")),
            **values,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ScheduleError(f"a cost model must have the form that was written; {error}; measure it again") from error
