"""What a schedule does, in words."""

from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_step import FACTORS


def schedule_text(schedule: Schedule, reused: float | None) -> str:
    """What a schedule does, in one line: solver, cache, precision, guidance, policy.

    `reused` is the share of site calls that its cache leaves out, None without a cache.
    """
    parts = [solver_text(schedule)]
    if schedule.compensation is not None:
        parts.append("compensated")
    if schedule.correction is not None:
        parts.append("coefficients corrected")
    if reused is not None:
        parts.append(f"cache leaves out {reused:.0%} of the site calls")
    if schedule.unconditional_cache is not None:
        parts.append("the unconditional branch cached by a plan of its own")
    if schedule.cache_correction is not None:
        parts.append("what it hands out corrected")
    if schedule.quantization is not None:
        parts.append("quantized, computed in floating point")
    if schedule.guidance is not None:
        dropped = sum(action is not GuidanceAction.BOTH for action in schedule.guidance)
        parts.append(f"one guidance branch in {dropped} of {len(schedule.guidance)} calls")
    if schedule.policy is not None:
        parts.append(f"policy {schedule.policy.text}")
    return "; ".join(parts)


def solver_text(schedule: Schedule) -> str:
    """The solver column in words: `data view in lambda, order 1 to 3, with corrector`."""
    if schedule.solver is None:
        return "the pipeline's own sampler"
    text = " and ".join(sorted({step.form for step in schedule.solver}))
    orders = sorted({s.order for s in schedule.solver})
    text += f", order {orders[0]}" if len(orders) == 1 else f", orders {orders[0]} to {orders[-1]}"
    text += ", with corrector" if any(s.corrector for s in schedule.solver) else ""
    text += ", analytic first step" if schedule.start is not None else ""
    is_plain = all(getattr(step, name) == 1.0 for step in schedule.solver for name in FACTORS)
    return text + ("" if is_plain else ", with factors of its own")
