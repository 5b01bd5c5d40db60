"""A job in a process of its own, for an evaluation under suspicion of killing whoever makes it."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from autotune.evaluators.evaluator import Evaluator
from autotune.evaluators.job import Job, JobValue


def run_apart(make_evaluator: Callable[[], Evaluator], job: Job) -> tuple[JobValue | None, Exception | None, str]:
    """Value or error of the job, or in words why its process ended without either.

    The evaluator is made anew there, by a function that can be found by its name.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, make_evaluator, job), daemon=True)
    process.start()
    sender.close()
    try:
        value, error = receiver.recv()
    except EOFError:
        process.join()
        return None, None, f"a process of its own ended with {_ending(process.exitcode)}"
    process.join()
    return value, error, ""


def _work(sender: Connection, make_evaluator: Callable[[], Evaluator], job: Job) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the study
    value, error = None, None
    try:
        value = job.run(make_evaluator())
    except Exception as raised:
        error = raised
    sender.send((value, error))


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
