"""Leases: who holds a study or an evaluation, and whether the holder lives.

A lease is a counter that its owner keeps raising. An observer takes an owner for dead when it has watched the counter
stand still for `LEASE_S` on its own monotonic clock. No time of day enters, so clocks that differ between machines, or
are set back, break nothing. An owner on the observer's own machine whose process is gone is dead at once.
"""

import os
import socket
import sys
import time
import uuid
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from sqlalchemy import Connection, delete, select, update

from autotune.storage.insert import insert_missing
from autotune.storage.sessions import Sessions
from autotune.storage.tables import LeaseRow

LEASE_S = 30.0
"""A counter that stands still for so long belongs to a dead owner; owners raise theirs every few seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who holds a lease. `machine` names a process table: the boot of a machine and, in it, a pid namespace."""

    host: str
    machine: str
    pid: int
    token: str

    def __str__(self) -> str:
        return f"{self.host}/{self.machine}/{self.pid}/{self.token}"

    @property
    def shown(self) -> str:
        """The owner for messages."""
        return f"process {self.pid} on {self.host}" if self.token else f"owner {self.host!r}"


def parse_owner(text: str) -> Owner:
    """The owner that `str` wrote; any other text is an owner on no machine, which only its counter can tell about."""
    parts = text.split("/")
    if len(parts) != 4 or not parts[2].isdecimal():
        return Owner(host=text, machine="", pid=0, token="")
    return Owner(host=parts[0], machine=parts[1], pid=int(parts[2]), token=parts[3])


@cache
def _machine() -> str:
    # Every machine calls its first pid namespace the same, and many are called "localhost": the boot tells them apart.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot[:13]} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


@dataclass(slots=True)
class _Seen:
    """A counter as it stood at `since`, seconds of the observer; `moved` tells whether it was ever seen to move."""

    beat: int | None
    since: float
    moved: bool = False


class Leases:
    """The lease of one open database, and what it has seen of the others'.

    `monotonic` tells seconds that never go back. Threads may share it.
    """

    _open: ClassVar["weakref.WeakValueDictionary[str, Leases]"] = weakref.WeakValueDictionary()

    def __init__(self, sessions: Sessions, monotonic: Callable[[], float] = time.monotonic) -> None:
        me = Owner(host=socket.gethostname(), machine=_machine(), pid=os.getpid(), token=uuid.uuid4().hex[:12])
        self.owner = str(me)
        self.is_used = False
        self._me = me
        self._sessions = sessions
        self.now = monotonic
        self._seen: dict[str, _Seen] = {}
        self._n_outages = 0
        Leases._open[self.owner] = self

    def renew(self, connection: Connection) -> None:
        """Raise the own counter."""
        self.is_used = True
        mine = LeaseRow.owner == self.owner
        if connection.execute(update(LeaseRow).where(mine).values(beat=LeaseRow.beat + 1)).rowcount == 0:
            insert_missing(connection, LeaseRow, [{"owner": self.owner, "beat": 1}])

    def end(self, connection: Connection) -> None:
        """Delete the own counter."""
        connection.execute(delete(LeaseRow).where(LeaseRow.owner == self.owner))

    def close(self) -> None:
        """Count as dead from now on for the other databases that are open in this process."""
        Leases._open.pop(self.owner, None)

    def deaths(self, connection: Connection, owners: Iterable[str]) -> dict[str, str]:
        """Which of these owners are dead, each with the reason in words; what is seen of the others is noted."""
        others = {owner for owner in owners if owner != self.owner}
        dead = {owner: reason for owner in others if (reason := self._ended(owner))}
        watched = sorted(others - set(dead))
        if watched:
            rows = connection.execute(select(LeaseRow.owner, LeaseRow.beat).where(LeaseRow.owner.in_(watched)))
            beats = {owner: beat for owner, beat in rows}  # noqa: C416 - rows are no pairs to mypy
            dead |= {owner: _silent(owner) for owner in watched if self._stands_still(owner, beats.get(owner))}
        return dead

    def is_alive(self, owner: str) -> bool:
        """Whether an owner that `deaths` was asked about is known to live; False as long as that can't be told."""
        return _is_open_here(owner) or (owner in self._seen and self._seen[owner].moved)

    def _ended(self, owner: str) -> str:
        """Why an owner is dead, if its process is gone; else an empty text."""
        holder = parse_owner(owner)
        if (holder.host, holder.machine) != (self._me.host, self._me.machine) or _is_open_here(owner):
            return ""
        # An owner with our own pid that is not open here was closed, or its pid was given away again.
        gone = holder.pid == self._me.pid or not _exists(holder.pid)
        return f"its {holder.shown} ended" if gone else ""

    def _stands_still(self, owner: str, beat: int | None) -> bool:
        if _is_open_here(owner):
            return False
        now = self.now()
        if self._n_outages != self._sessions.n_outages:
            # While the server was away nobody could raise a counter.
            self._n_outages = self._sessions.n_outages
            self._seen.clear()
        seen = self._seen.get(owner)
        if seen is None or seen.beat != beat:
            self._seen[owner] = _Seen(beat, now, moved=seen is not None and beat is not None)
            return False
        return now - seen.since >= LEASE_S


def _is_open_here(owner: str) -> bool:
    return owner in Leases._open and parse_owner(owner).pid == os.getpid()  # a fork inherits what is open


def _silent(owner: str) -> str:
    return f"its {parse_owner(owner).shown} was silent for {LEASE_S:.0f} s"


def _exists(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # os.kill would send a signal there; the counter tells
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")  # ended, and its parent has not asked for it yet
