"""Which held-out prompts the picks do worst on, for whoever looks at pictures."""

from collections.abc import Iterable, Sequence

from autotune.spaces.error_scale import error_scale
from autotune.spaces.study_record import Candidate, StudyRecord

N_SHOWN = 8
"""Prompts of which pictures are kept."""

INDICES_CHUNK = "prompts"
"""The text chunk of a PNG of pictures in a row that says which prompts they are of, by their places: `0,7,12`."""


def worst_first(errors: Sequence[Sequence[float]]) -> list[int]:
    """Places of prompts by the largest error that any schedule has there, the worst first.

    `errors` hold a value per prompt, one series per schedule; a prompt that one of them lacks is left out.
    """
    worst = [max(values) for values in zip(*errors, strict=False)]
    return sorted(range(len(worst)), key=lambda i: -worst[i])


def shown_prompts(record: StudyRecord, picks: Iterable[Candidate], n_prompts: int) -> tuple[int, ...]:
    """Places of the held-out prompts to draw, ascending: the worst `N_SHOWN`, the first where none is worse.

    Episodes fail or succeed, so that none of them is the worst.
    """
    measurements = [pick.held_out.measurement for pick in picks if pick.held_out is not None]
    errors = [] if error_scale(record).is_share else [m.errors for m in measurements if m is not None]
    ranked = worst_first(errors) or range(n_prompts)
    return tuple(sorted(ranked[:N_SHOWN]))
