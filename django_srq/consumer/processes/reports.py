"""Reports: the supervisor's calls about items, such as those of a dead child, and the processes that make them.

A Redis server may be silent, and so may a name server. The supervisor must wait for neither, so it calls no server
itself. For each server with reports it forks a reporter, a process that has the reports in its memory, makes these
calls, and ends. So the supervisor needs no threads, and no name look-up is under way when it forks a child.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, NoReturn

from django_srq.consumer.outage import trouble_with
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable, SRQError
from django_srq.operations import Call
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.runtime.guarded_log import guarded
from django_srq.runtime.process import set_title
from django_srq.transport import names
from django_srq.transport.link import Link
from django_srq.transport.refusals import is_refusal
from django_srq.transport.slots import Slot, slots

logger = guarded("django_srq.consumer")

NAME = "srq-reporter"  # as ps and top show it
PATIENCE = 5.0  # seconds for a call
RETRY, LONGEST_RETRY = 0.5, 2.0  # seconds between two reporters for one server: at first, and at most
HUNG = 3 * PATIENCE  # seconds without a message from a reporter, after which it is killed; it may be stopped
NEVER = float("inf")
_LENGTH = struct.Struct("=I")


class About(IntEnum):
    """What depends on a report."""

    NOTHING = 0  # it closes a slot of which nothing is owed
    CLAIM = 1  # a claim may have taken items that nobody has begun
    ITEMS = 2


@dataclass(eq=False)
class Report:
    """A call that is repeated, in the same slot, until the server has taken it."""

    queue: SafeRedisQueue
    call: Call[Any]
    then: Callable[[Any], None] = lambda reply: None  # called with the reply, in the supervisor
    about: About = About.ITEMS
    slot: Slot = field(default_factory=slots.borrow)
    since: float = field(default_factory=time.monotonic)
    tried: bool = False  # a reporter has tried it at least once


class Outcome(NamedTuple):
    """The outcome of an attempt at a report."""

    position: int  # of the report among those of its reporter
    final: bool  # False: the call is to be made again
    reply: Any = None
    error: str = ""


def attempts(reports: Sequence[Report]) -> Iterator[Outcome]:
    """Make the calls of the reports for one server; yields their outcomes. Blocks.

    The reports of a queue keep their order, as the last ones about a child close its slots. After a refusal, the other
    reports of that queue are left; after a call without an answer, all others are. The next reporter tries these again.
    """
    refusing: set[SafeRedisQueue] = set()
    for position, report in enumerate(reports):
        queue = report.queue
        if queue in refusing:
            continue
        try:
            reply = queue.link.call(report.call, queue=queue.alias, timeout=PATIENCE, slot=report.slot)
        except (QueueUnavailable, OutcomeUnknown) as error:
            yield Outcome(position, final=False, error=trouble_with(queue, error))
            if not is_refusal(error):
                return
            refusing.add(queue)
        except SRQError as error:  # the server will not take it later either, and other reports wait behind it
            yield Outcome(position, final=True, error=str(error))
        else:
            yield Outcome(position, final=True, reply=reply)


@dataclass
class _Reporter:
    """A process that makes the calls of the reports for one server, as the supervisor knows it."""

    pid: int
    fd: int  # the pipe over which it sends the outcomes
    reports: Sequence[Report]
    last_message: float = field(default_factory=time.monotonic)
    _unread: bytes = b""

    def messages(self) -> Iterator[Any]:
        """The messages since the last call: outcomes, and at the end the looked-up addresses. Does not block."""
        with suppress(BlockingIOError):
            while data := os.read(self.fd, 65536):
                self._unread += data
                self.last_message = time.monotonic()
        while len(self._unread) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._unread)[0]
            if len(self._unread) < end:
                return
            message, self._unread = self._unread[_LENGTH.size : end], self._unread[end:]
            yield pickle.loads(message)

    def has_ended(self) -> bool:
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # other code in this process has waited for it
            return True

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def kill_if_hung(self) -> None:
        if time.monotonic() >= self.last_message + HUNG:
            self.kill()
            self.last_message = time.monotonic()  # it may take its time to die


@dataclass
class _Server:
    """The reports for one server."""

    owed: list[Report] = field(default_factory=list)
    reporter: _Reporter | None = None
    due: float = NEVER  # the moment from which on the next reporter may be started
    pause: float = 0.0  # seconds before the next reporter, after one that left reports

    def postpone(self) -> None:
        """Try the reports that are left again after a pause; reports that came meanwhile have made it due already."""
        self.pause = min(max(2 * self.pause, RETRY), LONGEST_RETRY) if self.owed else 0.0
        self.due = min(self.due, time.monotonic() + self.pause)


class Reports:
    """The reports that no server has taken yet."""

    def __init__(
        self,
        fork: Callable[[], int],
        *,
        wake_supervisor: Callable[[], None],
        pipe_ends: Callable[[], Iterable[int]],
    ) -> None:
        """wake_supervisor: has the supervisor call ``collect``.

        pipe_ends: the supervisor's ends of its pipes to other processes. A reporter closes them.
        """
        self._fork, self._wake_supervisor, self._pipe_ends = fork, wake_supervisor, pipe_ends
        self._servers: dict[Link, _Server] = {}
        self._troubles: dict[SafeRedisQueue, str] = {}

    def __iter__(self) -> Iterator[Report]:
        return (report for server in self._servers.values() for report in server.owed)

    @property
    def about(self) -> About:
        """The most that depends on any of them."""
        return max((report.about for report in self), default=About.NOTHING)

    def __bool__(self) -> bool:
        return any(server.owed for server in self._servers.values())

    @property
    def servers(self) -> Collection[Link]:
        """The servers to which any of them is owed."""
        return {link for link, server in self._servers.items() if server.owed}

    @property
    def troubles(self) -> list[str]:
        """The troubles with servers that last."""
        return list(self._troubles.values())

    @property
    def read_ends(self) -> list[int]:
        """The supervisor's ends of the pipes from the reporters. No other process needs them."""
        return [reporter.fd for reporter in self._reporters()]

    @property
    def pids(self) -> list[int]:
        return [reporter.pid for reporter in self._reporters()]

    @property
    def next_moment(self) -> float:
        """The moment at which there is something to do even if no reporter wakes the supervisor."""
        hung = [reporter.last_message + HUNG for reporter in self._reporters()]
        idle = [server.due for server in self._servers.values() if server.owed and server.reporter is None]
        return min([*hung, *idle], default=NEVER)

    def untried(self, moment: float) -> bool:
        """Whether a report from before that moment was not tried yet."""
        return any(not report.tried and report.since <= moment for report in self)

    def append(self, report: Report) -> None:
        """Add a report. The next ``send`` starts a reporter for it, unless one is at work for its server."""
        server = self._servers.setdefault(report.queue.link, _Server())
        server.owed.append(report)
        server.due = 0.0

    def send(self) -> None:
        """Start the reporters that are due; ``collect`` reads their outcomes later. Does not block."""
        for server in self._servers.values():
            if server.owed and server.reporter is None and server.due <= time.monotonic():
                try:
                    self._start(server)
                except OSError as error:
                    logger.error("cannot start a process that tells a server what became of items: %s", error)
                    server.postpone()

    def collect(self) -> None:
        """Read the messages of the reporters, reap those that ended, kill those that hang. Does not block."""
        for server in self._servers.values():
            if reporter := server.reporter:
                ended = reporter.has_ended()  # asked before reading: if it has ended, all its messages are there
                for message in reporter.messages():
                    self._take(reporter, message)
                if ended:
                    self._remove(server, reporter)
                else:
                    reporter.kill_if_hung()

    def end(self) -> None:
        """Kill the reporters, and forget all reports. The items of these come back when their leases end."""
        for reporter in self._reporters():
            reporter.kill()
            with suppress(ChildProcessError):
                os.waitpid(reporter.pid, 0)
            os.close(reporter.fd)
        self._servers.clear()

    def settle(self, report: Report, outcome: Outcome) -> None:
        report.tried = True
        if not outcome.final:
            self._troubles[report.queue] = outcome.error
            return
        self._troubles.pop(report.queue, None)
        self._servers[report.queue.link].owed.remove(report)
        slots.give_back(report.slot)
        if outcome.error:
            logger.error("cannot say what became of the items of a dead child: %s", outcome.error)
        else:
            report.then(outcome.reply)

    def _reporters(self) -> list[_Reporter]:
        return [server.reporter for server in self._servers.values() if server.reporter]

    def _take(self, reporter: _Reporter, message: Outcome | Mapping[names.Host, list[names.Address]]) -> None:
        if isinstance(message, Outcome):
            self.settle(reporter.reports[message.position], message)
        else:
            names.learn(message)

    def _remove(self, server: _Server, reporter: _Reporter) -> None:
        os.close(reporter.fd)
        server.reporter = None
        for report in reporter.reports:
            report.tried = True
        server.postpone()

    def _start(self, server: _Server) -> None:
        server.due = NEVER
        reading, writing = os.pipe()
        try:
            pid = self._fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            raise
        if pid == 0:
            self._work_and_exit(writing, [reading, *self._pipe_ends()], server.owed)
        os.close(writing)
        os.set_blocking(reading, False)
        server.reporter = _Reporter(pid, reading, list(server.owed))

    # -- in the reporter

    def _work_and_exit(self, fd: int, pipe_ends: Iterable[int], reports: Sequence[Report]) -> NoReturn:
        code = 1
        try:
            gc.freeze()  # as in a child
            for end in pipe_ends:
                os.close(end)
            set_title(NAME)
            for outcome in attempts(reports):
                self._send(fd, outcome)
            # The supervisor looks up no names, but the processes that it forks have those that it knows. They may need
            # them: the name server may be silent later.
            self._send(fd, names.known())
            code = 0
        except Exception:
            logger.exception("cannot say what became of the items of a dead child")
        finally:
            os._exit(code)

    def _send(self, fd: int, message: object) -> None:
        pickled = pickle.dumps(message)
        data = _LENGTH.pack(len(pickled)) + pickled
        with suppress(BrokenPipeError):  # the supervisor is gone: go on with the calls all the same
            while data:
                data = data[os.write(fd, data) :]
                self._wake_supervisor()
