"""What an evolution minimises of a measured schedule, and which schedules it need not measure."""

import math
from functools import cached_property

from autotune.search.searcher import SearchContext
from autotune.spaces.cost_model import CostModel
from autotune.spaces.error_scale import error_value
from autotune.spaces.evaluation import Measurement
from autotune.spaces.objective import needs_cost_model, objective_value, total_violation
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_macs import schedule_macs


class Fitness:
    """The study's objectives, an error (deviation, failed episodes) as its logarithm."""

    def __init__(self, context: SearchContext) -> None:
        self._context = context
        self._expected: dict[Schedule, float] = {}

    @property
    def limits_costs(self) -> bool:
        """Whether a limit of the study is on what a cost model tells."""
        return needs_cost_model((), self._context.constraints)

    @cached_property
    def _costs(self) -> CostModel | None:
        """Made when it is asked for first, since it takes some runs."""
        wanted = self.limits_costs or "latency" in self._context.objectives
        return self._context.cost_model() if wanted and self._context.cost_model is not None else None

    def values(self, measurement: Measurement) -> tuple[float, ...]:
        """Less is better, in each."""
        values = []
        for name in self._context.objectives:
            error = error_value(name, measurement)
            values.append(objective_value(name, measurement) if error is None else math.log10(error))
        return tuple(values)

    def expected_cost(self, schedule: Schedule) -> float:
        """What a schedule costs over the default run: latency by the cost model, if there is one, else MACs."""
        if schedule not in self._expected:
            self._expected[schedule] = self._expected_cost(schedule)
        return self._expected[schedule]

    def _expected_cost(self, schedule: Schedule) -> float:
        if self._costs is not None:
            return self._costs.relative_latency(schedule)
        context = self._context
        n_branches = 2 if context.guided else 1
        n_calls = schedule.n_steps if schedule.time is not None else len(context.own_timesteps(schedule.n_steps))
        default = context.n_calls * context.inventory.total_macs * n_branches
        return schedule_macs(schedule, context.inventory, n_calls, n_branches) / default

    def violation(self, measurement: Measurement) -> float:
        """By how much the limits of the study are broken; 0 where they hold."""
        return total_violation(self._context.constraints, measurement)

    def refuses(self, schedule: Schedule) -> bool:
        """Whether the cost model knows that a limit would be broken, so that there is no need to run it."""
        return self._costs is not None and self._costs.violates(schedule, self._context.constraints)
