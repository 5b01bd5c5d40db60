"""A schedule file taken over to another step count, resolution or checkpoint."""

from pathlib import Path
from typing import Any

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.noise import flow_mu, noise_schedule_of, own_timesteps, prediction_of
from autotune.evaluators.presets import Preset
from autotune.evaluators.weightless import describe_model
from autotune.spaces.claim import claim_of
from autotune.spaces.condition import Condition
from autotune.spaces.errors import AutotuneError, ScheduleMismatchError
from autotune.spaces.evaluation import DEVIATION, SUCCESS
from autotune.spaces.given_schedule import GivenSchedule
from autotune.spaces.inventory import Inventory
from autotune.spaces.noise_schedule import Flow, KnownNoise
from autotune.spaces.retiming import RunLevels, retime
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file
from autotune.spaces.time_grid import shift_flow_times


def transfer_schedule(source: str | Path | ScheduleFile, pipe: Any, preset: Preset) -> GivenSchedule:
    """The schedule of a file for a run of the preset; the file's own condition changes nothing of it.

    A schedule of fewer or more steps than its pipeline's default run keeps that ratio.

    Args:
        source: path of a schedule file, or its content.
        pipe: the pipeline, or what stands for it without weights (`autotune.evaluators.weightless`).
        preset: its default run; the steps, height and width count.

    Raises:
        ScheduleError: the file can't be read or breaks a rule.
        ScheduleMismatchError: the schedule belongs to other modules, to another sampler or kind of noise schedule.
    """
    file = source if isinstance(source, ScheduleFile) else load_schedule_file(source)
    condition, schedule = file.condition, file.schedule
    inventory = list_inventory(pipe)
    _check_fit(pipe, schedule, condition, inventory)
    n_steps = max(1, round(schedule.n_steps * preset.n_steps / condition.n_steps))
    mu = flow_mu(pipe, preset.height, preset.width)
    noise, even = noise_schedule_of(pipe.scheduler, mu), find_adapter(pipe).even_sigmas
    own = own_timesteps(pipe.scheduler, n_steps, mu, even_sigmas=even)
    start = own_timesteps(pipe.scheduler, preset.n_steps, mu, even_sigmas=even)[0]
    times = schedule.time or _source_times(pipe, condition, schedule.n_steps, noise)
    retimed = retime(
        schedule,
        inventory,
        RunLevels(noise=condition.noise_schedule, start=condition.start_timestep, times=times),
        RunLevels(noise=noise, start=start, times=own),
        n_steps,
    )
    name = "a schedule" if isinstance(source, ScheduleFile) else Path(source).name
    is_same = schedule_hash(retimed.schedule) == schedule_hash(schedule)
    return GivenSchedule(
        label=f"{'given' if is_same else 're-timed'}: {name}",
        schedule=retimed.schedule,
        source=_figures(file),
        remarks=tuple(f"{name}: {remark}" for remark in retimed.remarks),
    )


def _source_times(pipe: Any, condition: Condition, n_steps: int, noise: KnownNoise) -> tuple[float, ...]:
    """The own grid of the source's sampler, as the target's scheduler makes it at the source's time shift."""
    even = find_adapter(pipe).even_sigmas
    old = condition.noise_schedule

    def grid(n: int) -> tuple[float, ...]:
        if not (isinstance(noise, Flow) and isinstance(old, Flow)):
            return own_timesteps(pipe.scheduler, n, even_sigmas=even)
        if noise.dynamic:
            return own_timesteps(pipe.scheduler, n, old.mu, even_sigmas=even)
        times = own_timesteps(pipe.scheduler, n, even_sigmas=even)
        return times if old.mu == noise.mu else shift_flow_times(times, old.mu - noise.mu, n_train=noise.n_train)

    start = grid(condition.n_steps)[0]
    if abs(start - condition.start_timestep) > 1e-3 * noise.t_max:
        raise ScheduleMismatchError(
            f"a schedule without a column time moves between samplers with the same grid; its run begins at timestep "
            f"{condition.start_timestep:g}, the {condition.scheduler_class} here at {start:g} in {condition.n_steps} "
            "steps: load the model with the scheduler config that the schedule was made for"
        )
    return grid(n_steps)


def _check_fit(pipe: Any, schedule: Schedule, condition: Condition, inventory: Inventory) -> None:
    """Raise a ScheduleMismatchError for what no re-timing makes up for."""
    remedy = f"transfer a schedule of a model with the same modules and sampler as {condition.model}"
    if schedule.cache is not None and inventory.hash != condition.inventory_hash:
        raise ScheduleMismatchError(
            f"a cache plan moves between models with the same sites; {_first_difference(condition, inventory)}; "
            f"{remedy}"
        )
    prediction = prediction_of(pipe.scheduler)
    if schedule.time is not None and prediction != condition.prediction:
        raise ScheduleMismatchError(
            f"a solver column fits one kind of prediction; it was made for {condition.prediction!r}, the "
            f"{type(pipe.scheduler).__name__} here says {prediction!r}; {remedy}"
        )
    own_class = type(pipe.scheduler).__name__
    if schedule.time is None and own_class != condition.scheduler_class:
        raise ScheduleMismatchError(
            f"the rows of a schedule without a solver column belong to one sampler; it was made for "
            f"{condition.scheduler_class}, the pipeline has {own_class}; {remedy}"
        )


def _first_difference(condition: Condition, inventory: Inventory) -> str:
    """In words; the sites of the source are known only while its model can be had."""
    try:
        source = describe_model(condition.model).inventory
    except AutotuneError:
        source = None
    here = f"the {inventory.denoiser_class} here"
    if source is None or source.hash != condition.inventory_hash:
        return f"it was made for inventory {condition.inventory_hash[:12]}, {here} has {inventory.hash[:12]}"
    if source.denoiser_class != inventory.denoiser_class:
        return f"it was made for a {source.denoiser_class}, not for {here}"
    names, own = [site.name for site in source.sites], [site.name for site in inventory.sites]
    for i, (name, other) in enumerate(zip(names, own, strict=False)):
        if name != other:
            return f"site {i} is {name} in {condition.model}, and {other} in {here}"
    return f"{condition.model} has {len(names)} sites, {here} has {len(own)}"


def _figures(file: ScheduleFile) -> dict[str, object]:
    """What the file says of its schedule: held-out figures if there are some."""
    condition = file.condition
    source: dict[str, object] = {
        name: getattr(condition, name) for name in ("model", "n_steps", "height", "width", "guidance_scale")
    }
    claim = claim_of(file.measured)
    if claim is not None:
        metric = SUCCESS if SUCCESS in claim.quality else DEVIATION
        source |= {"measured_on": claim.measured_on, metric: claim.quality.get(metric)}
        source |= {name: getattr(claim, name) for name in ("speedup", "latency_ms", "network_calls")}
    return source
