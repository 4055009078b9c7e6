"""A child process and its end, as the supervisor knows them."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field

from django_srq.consumer.ledger import RUNNING, Ledger
from django_srq.consumer.processes import groups
from django_srq.consumer.processes.withdrawal import Withdrawal

# The lines that the supervisor writes to a child; any other line is an event (``event_relay.py``). ASK: note in the
# ledger that you can hear.
STOP, ASK = b"stop\n", b"ask\n"
STOPPED = "stopped"  # why a child is killed at the end of the grace


def took_too_long(limit: float) -> str:
    """Why a child is killed at the end of an item's time limit (seconds)."""
    return f"killed: an item took longer than the time limit of {limit:g} s"


def timed_out(limit: float) -> str:
    """The same at the end of a task's own time limit."""
    return f"killed: a task took longer than its timeout of {limit:g} s"


@dataclass(eq=False)
class ChildHandle:
    """A child process: its ledger, the pipe to it, and what the supervisor has done to it."""

    id: str
    pid: int
    ledger: Ledger
    control_fd: int  # the pipe over which the supervisor talks to it; it ends when the supervisor dies
    born: float = field(default_factory=time.monotonic)
    stopping: bool = False  # it was told to stop
    kill_reason: str = ""  # why the supervisor killed it; "": it did not
    over_limit: set[int] = field(default_factory=set)  # generations of the entries that took too long
    timed_out: set[int] = field(default_factory=set)  # those of them whose limit was that of a task
    withdrawal: Withdrawal = field(init=False)
    unsent: bytes = b""  # to be written to the pipe before anything else: the rest of a line, a STOP

    def __post_init__(self) -> None:
        self.withdrawal = Withdrawal(self.ledger, lambda: self.send(ASK), lambda: groups.is_stopped(self.pid))

    def send(self, line: bytes) -> bool:
        """Write a line to the child; ``flush`` writes the rest, if there is one. False: nothing was written.

        Then the pipe is full or the child is dead. Does not block.
        """
        if not self.flush():
            return False
        written = self._write(line)
        if written:
            self.unsent = line[written:]
        return written > 0

    def stop(self) -> None:
        if not self.stopping:
            self.stopping = True
            self.unsent += STOP
            self.flush()

    def flush(self) -> bool:
        """Write the rest of earlier lines; whether nothing is left. Does not block.

        The child wakes the supervisor when it has read: then the pipe has room again.
        """
        self.unsent = self.unsent[self._write(self.unsent) :]
        return not self.unsent

    def _write(self, data: bytes) -> int:
        """Write as many bytes as the pipe has room for; returns their number."""
        try:
            return os.write(self.control_fd, data) if data else 0
        except OSError:  # the child died; or the pipe is full, as a handler holds the interpreter's lock for long
            return 0

    def kill(self, reason: str) -> None:
        self.kill_reason = self.kill_reason or reason
        groups.kill(self.pid)

    @property
    def is_at_work(self) -> bool:
        """Whether it has items in hand or on their way. Both may last long."""
        ledger = self.ledger
        return any(ledger) or ledger.claiming is not None or bool(ledger.claims_put_off) or ledger.arriving

    def reap(self) -> ChildExit | None:
        """Take the exit status of the process; None: it has not ended. Does not block."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if not pid:
            return None
        memory = usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024
        return ChildExit(self, os.waitstatus_to_exitcode(status), memory)


@dataclass(frozen=True)
class ChildExit:
    """The end of a child process."""

    child: ChildHandle
    code: int  # below 0: minus the number of the signal that killed it
    memory: int  # bytes that it used at most

    @property
    def premature(self) -> bool:
        """Whether it came before the child's proper end. A handler that calls os._exit(0) leaves a running item."""
        return self.code != 0 or any(entry.state == RUNNING for entry in self.child.ledger)

    @property
    def unexplained(self) -> bool:
        """Whether it was premature, and the supervisor did not cause it."""
        return self.premature and not self.child.kill_reason

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it. That comes from outside: it does not say that the next child will not come up."""
        return self.code == -signal.SIGKILL

    @property
    def description(self) -> str:
        if self.code >= 0:
            return f"ended with exit code {self.code}"
        name = signal.Signals(-self.code).name
        return f"killed by {name}" + (" (by hand, or for want of memory)" if self.was_killed else "")
