"""What steps, sizes and guidance may be where a user gives them."""

from autotune.spaces.errors import UsageError


def check_run_numbers(
    *, steps: int | None = None, resolution: int | None = None, guidance: float | None = None
) -> None:
    """Return if the numbers that are given can be those of a run; `resolution` is pixels a side.

    Raises:
        UsageError: one can't; the message names it.
    """
    for name, value, least in (("steps", steps, 1), ("resolution", resolution, 8)):
        if value is not None and value < least:
            raise UsageError(f"{name} must be at least {least}; got {value}")
    if resolution is not None and resolution % 8:
        raise UsageError(f"resolution must be a multiple of 8 pixels; got {resolution}")
    if guidance is not None and not 0.0 <= guidance < float("inf"):
        raise UsageError(f"guidance must be a finite number, 0 or above; got {guidance}")
