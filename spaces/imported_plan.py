"""What an importer makes of another tool's file."""

from dataclasses import dataclass

from autotune.spaces.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedPlan:
    """A cache schedule from another tool, and what its file says of the run that it was made for.

    `schedule` is canonical, so that what nobody reads is gone. `height` and `width` are pixels; what the file does not
    say is None. `remarks` are sentences on what the file says and a schedule does not carry.
    """

    schedule: Schedule
    name: str = ""
    height: int | None = None
    width: int | None = None
    guidance_scale: float | None = None
    remarks: tuple[str, ...] = ()
