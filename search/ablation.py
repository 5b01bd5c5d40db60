"""The replay that tells what each column is worth: front members are measured again with one column taken away."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from autotune.evaluators.pool import WorkerPool
from autotune.search.dispatcher import Dispatcher, Request
from autotune.search.heartbeat import Heartbeat
from autotune.search.study_plan import StudyPlan
from autotune.search.verification import Verification
from autotune.spaces.ablation import COLUMNS, Removal, uses, without
from autotune.spaces.errors import ScheduleError, UsageError
from autotune.spaces.front import BASELINE, pick, study_front
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.spaces.study_record import Candidate, StudyRecord
from autotune.storage.database import Database
from autotune.storage.study_ablation import load_removals, save_removals

N_MEMBERS = 6

OnRemoval = Callable[[int, int, str], None]
"""Told how many removals are measured, of how many, and which one came last."""


def ablated_members(record: StudyRecord, n_members: int) -> tuple[Candidate, ...]:
    """Front members with held-out values: the picks, then others at even distances along the front.

    Raises:
        UsageError: the number is not positive, or no member has held-out values.
    """
    if n_members < 1:
        raise UsageError(f"the number of members must be at least 1; got {n_members}")
    front = [c for c in study_front(record) if c.family != BASELINE and c.held_out and c.held_out.measurement]
    if not front:
        raise UsageError(
            f"columns are taken away from front members with held-out values; study {record.name!r} has none: "
            "resume it first"
        )
    picks = {c.number: c for c in pick(front, record).values()}
    chosen = list(picks.values())[:n_members]
    others = [c for c in front if c.number not in picks]
    n_others = min(len(others), n_members - len(chosen))
    kept = np.unique(np.round(np.linspace(0, len(others) - 1, n_others)).astype(int)).tolist() if n_others else []
    return (*chosen, *(others[i] for i in kept))


def plan_removals(
    members: Sequence[Candidate], pool: WorkerPool, key: Callable[[str], str]
) -> list[tuple[Removal, Schedule | None]]:
    """Every column that a member uses, taken away; member by member. `key` gives that of a schedule's evaluation."""
    planned: list[tuple[Removal, Schedule | None]] = []
    for member in members:
        own_timesteps = pool.own_timesteps(member.schedule.n_steps)
        for column in COLUMNS:
            if not uses(member.schedule, column):
                continue
            removal = Removal(member=member.schedule_hash, column=column)
            try:
                rest = without(member.schedule, column, pool.inventory, own_timesteps)
            except ScheduleError as error:
                planned.append((replace(removal, reason=str(error)), None))
                continue
            digest = schedule_hash(rest)
            planned.append((replace(removal, schedule_hash=digest, key=key(digest)), rest))
    return planned


def ablate_front(
    record: StudyRecord,
    members: Sequence[Candidate],
    plan: StudyPlan,
    pool: WorkerPool,
    database: Database,
    on_removal: OnRemoval = lambda done, total, what: None,
) -> tuple[Removal, ...]:
    """Measure `ablated_members` less each column, as the verification measures members: same prompts, interleaved.

    What was measured before is not measured again. Returns it too: all that is noted for the study.

    Raises:
        EvaluatorError: the evaluator is broken.
    """
    dispatcher = Dispatcher(pool, database)
    verification = Verification(plan.held_out, plan.verification, pool.condition.batch_size)
    planned = plan_removals(members, pool, lambda digest: dispatcher.key(digest, plan.held_out))
    by_hash = {c.schedule_hash: c for c in members}
    earlier = [removal for removal in load_removals(database, record) if removal.member not in by_hash]
    save_removals(database, record, [*earlier, *(removal for removal, _ in planned)])
    requests: dict[str, tuple[Request, str]] = {}
    for removal, rest in planned:
        if rest is not None and removal.schedule_hash is not None:
            member = by_hash[removal.member]
            stand_in = replace(member, schedule=rest, schedule_hash=removal.schedule_hash)
            what = f"{member.label}, without {removal.column}"
            requests.setdefault(removal.schedule_hash, (verification.request(stand_in), what))
    with Heartbeat(database):
        _measure(dispatcher, requests, on_removal)
    return load_removals(database, record)


def _measure(dispatcher: Dispatcher, requests: dict[str, tuple[Request, str]], on_removal: OnRemoval) -> None:
    waiting, n_done = deque(request for request, _ in requests.values()), 0
    while waiting or dispatcher.n_open:
        if waiting and not dispatcher.n_open:
            dispatcher.await_worker()
        while waiting and dispatcher.n_free:
            dispatcher.submit([waiting.popleft()])
        for measured in dispatcher.collect():
            n_done += 1
            on_removal(n_done, len(requests), requests[measured.request.schedule_hash][1])
