"""Finds the fastest schedules of a diffusion model and applies them to unmodified diffusers pipelines.

`apply`, `remove` and `applied` put a schedule file on a pipeline in production, `compile_leaves` compiles what
schedules decide on, and `use_kernels` quantizes it for real; `tune`, `resume` and `load_study` search, `ablate` and
`bench` measure again. Each is imported when it is first used, so that `import autotune` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.api import Sitting, Study, ablate, bench, load_study, resume, tune
    from autotune.evaluators.apply import applied, apply, compile_leaves, remove
    from autotune.evaluators.real_kernels import use_kernels

__all__ = [
    "Sitting", "Study", "ablate", "applied", "apply", "bench", "compile_leaves", "load_study", "remove", "resume",
    "tune", "use_kernels",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'autotune' has no attribute {name!r}")
    from importlib import import_module

    homes = dict.fromkeys(("applied", "apply", "compile_leaves", "remove"), "autotune.evaluators.apply")
    homes["use_kernels"] = "autotune.evaluators.real_kernels"
    return getattr(import_module(homes.get(name, "autotune.api")), name)
