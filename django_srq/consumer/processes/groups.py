"""Process groups: each child leads one. The programs and forks of its handlers are in it too, and end with the child.

A terminal's Ctrl-C does not reach these groups. It reaches the supervisor, which tells its children.
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
    with suppress(OSError):  # it leads a group already, or has ended
        os.setpgid(pid, pid)


def do_without_terminal() -> None:
    """Have reads from the terminal fail. Else the system would stop the group for them, as it is in the background."""
    if any(os.isatty(stream) for stream in (0, 1, 2)):
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)


def kill(leader: int) -> None:
    """Kill a child with its group, and on Linux also its descendants that have begun groups of their own."""
    _send(leader, signal.SIGSTOP)  # else it could start further processes meanwhile
    _kill_descendants(leader)
    _send(leader, signal.SIGKILL)
    kill_group(leader)


def kill_own() -> None:
    """Kill this process with its group and its descendants, as ``kill`` does."""
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
    """Kill all processes of a group; whether there were any."""
    return _send_all(group, signal.SIGKILL)


def has_own_proc() -> bool:
    """Whether /proc describes the processes that this one can signal, and not those of another namespace (Linux)."""
    return os.path.exists("/proc/self") and os.readlink("/proc/self") == str(os.getpid())


def is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger has stopped that process. False where the system does not tell."""
    if not has_own_proc():
        return False
    try:
        return state_of(pid) in (b"T", b"t")
    except OSError:  # it has ended
        return False


def state_of(pid: int) -> bytes:
    """The letter for the state of a process's first thread. OSError: the process has ended, or there is no /proc."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]


def lives(pid: int) -> bool:
    """Whether a child lives, as far as that can be found out. The supervisor may not have noticed its death yet.

    Where the system does not tell, a dead process that was not waited for (a zombie) counts as living.
    """
    if not pid:
        return False  # the child has not begun
    try:
        os.kill(pid, 0)
        if not has_own_proc():
            return True
        state = state_of(pid)
    except ProcessLookupError:
        return False
    except OSError:  # it runs as another user
        return True
    return state not in (b"Z", b"X")


def _descendants(pid: int) -> Iterator[int]:
    """The descendants of a process; none where the system does not tell."""
    if has_own_proc():
        yield from _children_and_theirs(pid)


def _children_and_theirs(pid: int) -> Iterator[int]:
    with suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                yield child
                yield from _children_and_theirs(child)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _send_all(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # its processes run as other users, such as those of sudo
        return True
    return True


@dataclass
class Leftovers:
    """The groups of programs that handlers started and that were still at work when their child ended normally.

    An acked item may need these programs. So they may go on for the grace, as the threads of a handler may.
    """

    grace: float  # seconds
    _stopping: bool = False
    _until: dict[int, float] = field(default_factory=dict)  # by group: the moment at which its grace is over

    def __bool__(self) -> bool:
        """Whether there are any groups left."""
        return bool(self._until)

    def add(self, group: int) -> None:
        if _send_all(group, signal.SIGTERM if self._stopping else 0):
            self._until[group] = time.monotonic() + self.grace

    def stop(self) -> None:
        """Send SIGTERM to the groups, and to those added later, as the consumer was told to stop."""
        self._stopping = True
        for group in self._until:
            _send_all(group, signal.SIGTERM)

    def end(self, latest: float = float("inf")) -> list[int]:
        """Kill the groups whose grace is over, and return them. latest: a moment at which the grace of all is over."""
        now = time.monotonic()
        self._until = {group: until for group, until in self._until.items() if _send_all(group, 0)}
        over = [group for group, until in self._until.items() if min(until, latest) <= now]
        for group in over:
            del self._until[group]
        return [group for group in over if kill_group(group)]


def reap_orphans(children: Collection[int]) -> None:
    """In the first process of a container (PID 1): reap processes whose parents have ended, as no other process does.

    children: all processes that the caller itself has started and waits for. This takes the exit status of any other
    process.
    """
    if os.getpid() != 1:
        return
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in children:
            os.waitpid(ended.si_pid, os.WNOHANG)
