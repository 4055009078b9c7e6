"""Process groups: each child leads one, with the programs and forks of its handlers, which end with it.

A terminal's Ctrl-C does not reach them: the supervisor, which it reaches, tells its children.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


def lead(pid: int = 0) -> None:
    """Make a process, this one by default, the first of a group of its own."""
    with suppress(OSError):  # it is that already, or has ended
        os.setpgid(pid, pid)


def do_without_terminal() -> None:
    """Have what reads from the terminal fail: as the group is not in its foreground, it would be stopped for it."""
    if any(os.isatty(stream) for stream in (0, 1, 2)):
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)


def kill(leader: int) -> None:
    """Kill a child with its group, and with those of its descendants that have begun groups of their own (on Linux)."""
    _send(leader, signal.SIGSTOP)  # or it would start others meanwhile
    _kill_descendants(leader)
    _send(leader, signal.SIGKILL)
    kill_group(leader)


def kill_own() -> None:
    """Kill this process, as ``kill`` does."""
    _kill_descendants(os.getpid())
    os.killpg(0, signal.SIGKILL)


def _kill_descendants(leader: int) -> None:
    stopped: set[int] = set()
    while found := set(_descendants(leader)) - stopped:
        for pid in found:
            _send(pid, signal.SIGSTOP)
        stopped |= found
    for pid in stopped:
        _send(pid, signal.SIGKILL)


def kill_group(group: int) -> bool:
    """Whether there was somebody in it."""
    return _send_all(group, signal.SIGKILL)


def are_told() -> bool:
    """Whether the system tells of the processes that we see, and not of those of another namespace (Linux)."""
    return os.path.exists("/proc/self") and os.readlink("/proc/self") == str(os.getpid())


def is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger stopped that process; where the system does not tell: no."""
    if not are_told():
        return False
    try:
        return state_of(pid) in (b"T", b"t")
    except OSError:  # it has ended
        return False


def state_of(pid: int) -> bytes:
    """The letter for the state of a process's first thread, where the system tells of it."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]


def lives(pid: int) -> bool:
    """Whether that child does, for all that is known. The supervisor may not have noticed its death yet.

    Where the system does not tell, one that is dead and was not waited for counts as well.
    """
    if not pid:
        return False  # it has not begun
    try:
        os.kill(pid, 0)
        if not are_told():
            return True
        state = state_of(pid)
    except ProcessLookupError:
        return False
    except OSError:  # it runs as another user
        return True
    return state not in (b"Z", b"X")


def _descendants(pid: int) -> Iterator[int]:
    """None where the system does not tell."""
    if are_told():
        yield from _below(pid)


def _below(pid: int) -> Iterator[int]:
    with suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                yield child
                yield from _below(child)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _send_all(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # they belong to other users, such as those of sudo
        return True
    return True


@dataclass
class Leftovers:
    """What handlers started, and left at work when their child came to its end: they may go on for the grace.

    An item that was acked may need them, so that they are treated like its threads.
    """

    grace: float  # seconds
    _stopping: bool = False
    _until: dict[int, float] = field(default_factory=dict)  # by group: the moment at which its grace is over

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._until)

    def add(self, group: int) -> None:
        if _send_all(group, signal.SIGTERM if self._stopping else 0):
            self._until[group] = time.monotonic() + self.grace

    def stop(self) -> None:
        """The consumer was told to stop, and tells them."""
        self._stopping = True
        for group in self._until:
            _send_all(group, signal.SIGTERM)

    def end(self, latest: float = float("inf")) -> list[int]:
        """Kill those whose grace is over, and return their groups; latest: the moment at which that of all is."""
        now = time.monotonic()
        self._until = {group: until for group, until in self._until.items() if _send_all(group, 0)}
        over = [group for group, until in self._until.items() if min(until, latest) <= now]
        for group in over:
            del self._until[group]
        return [group for group in over if kill_group(group)]


def reap_orphans(children: Collection[int]) -> None:
    """As the first process of a container: reap those of others whose parents have ended, as nobody else does.

    This is for a process that starts only those children: it takes the exit status of any other.
    """
    if os.getpid() != 1:
        return
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in children:
            os.waitpid(ended.si_pid, os.WNOHANG)
