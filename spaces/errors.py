"""Errors of the whole project.

AutotuneError
├── ScheduleError (ValueError)          a schedule, or its file, breaks a rule
│   ├── ScheduleMismatchError           a valid schedule that belongs to another model or sampler
│   └── FitMemoryError                  a column can't be fitted for want of memory
├── UnsupportedModelError (ValueError)  no adapter knows this denoiser
├── ModelNotFoundError (LookupError)    weights that can't be had
├── UsageError (ValueError)             an argument of a command or of the Python API
├── StorageError (RuntimeError)         the database or the artifact store
│   └── StudyBusyError                  another process drives the study
├── StudyExistsError (ValueError)       a study name is taken
└── EvaluatorError (RuntimeError)       the evaluator itself is broken; not a failed candidate

A message states the rule, then what was got, then the remedy. A failed *candidate* is a value, not an
exception: see `autotune.spaces.evaluation.Failure`.
"""


class AutotuneError(Exception):
    """Root of every error that this package raises on purpose."""


class ScheduleError(AutotuneError, ValueError):
    """A schedule or a schedule file breaks a rule."""


class ScheduleMismatchError(ScheduleError):
    """A valid schedule was applied to a model, sampler or step count that it was not made for."""


class FitMemoryError(ScheduleError):
    """Memory is too short to fit a column of a schedule of this model, be it for a single sample."""


class UnsupportedModelError(AutotuneError, ValueError):
    """No adapter knows the sites of this denoiser."""


class ModelNotFoundError(AutotuneError, LookupError):
    """The weights of a model can't be had."""


class UsageError(AutotuneError, ValueError):
    """An argument of a command or of the Python API is wrong."""


class StorageError(AutotuneError, RuntimeError):
    """The database or the artifact store can't be read or written."""


class StudyBusyError(StorageError):
    """Another process drives this study, and a study has one driver."""


class StudyExistsError(AutotuneError, ValueError):
    """A study of this name exists already."""


class EvaluatorError(AutotuneError, RuntimeError):
    """The evaluator itself is broken, so no candidate can be scored."""
