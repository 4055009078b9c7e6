"""The supervisor: has child processes do the work, and looks after them.

The supervisor runs no handler, opens no database connection, and has a single thread. It calls no server before its
end. Its keeper, a process beside the children, renews the leases: so nothing that holds up the supervisor ends a lease.
Its reporters, short-lived processes, tell the servers what became of items: so no silent server holds up the
supervisor.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from django_srq.consumer import stop_signals
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.probes import Heartbeat, notify
from django_srq.consumer.processes import groups
from django_srq.consumer.processes.child_handle import STOPPED, ChildExit
from django_srq.consumer.processes.event_relay import EventRelay
from django_srq.consumer.processes.health import Health
from django_srq.consumer.processes.keeper import Keeper
from django_srq.consumer.processes.postmortem import PostMortem
from django_srq.consumer.processes.reports import About, Reports
from django_srq.consumer.processes.seats import Seat, Seats
from django_srq.consumer.processes.shutdown import Shutdown
from django_srq.consumer.processes.spawner import Spawner
from django_srq.consumer.processes.watch import Watch
from django_srq.consumer.signal_pipe import SignalPipe
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.summary import Summary
from django_srq.consumer.worker.retries import LAST_WORDS
from django_srq.consumer.worker.worker import Worker
from django_srq.runtime.guarded_log import guarded

logger = guarded("django_srq.consumer")

ORDER = 1.0  # seconds at most that a new child waits until its predecessor's items are back in their places
# Seconds for the last reports if they are about no items: while a server is away, and if nothing is owed at all.
SHORT_WORDS, FORMAL_WORDS = 0.3, 1.0
AT_ONCE = 2.0  # seconds for the last reports after a second signal: a server that answers takes far less
LEAST_WORDS = 0.1  # seconds for the last call of all to a server that is away: it may be refusing others only
LEFTOVERS_LOOK = 0.1  # seconds between looks at programs that handlers started and left at work


class Supervisor:
    """A consumer of several processes; ``ConsumerOptions`` says how it works.

    It has more than 12 attributes, as it brings together the parts of a consumer, and each of these has one purpose.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        options: ConsumerOptions,
        *,
        on_idle: Callable[[], None] = lambda: None,
        before_fork: Callable[[], None] = lambda: None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        """on_idle: called in each thread of a child before it waits for items.

        before_fork: called before each fork; closes the connections that the processes would share.
        """
        id = f"c{secrets.token_hex(5)}"
        self.failure = ""  # why it could not go on
        self._signals = SignalPipe()
        self._shutdown = Shutdown(options.grace)
        self._seats = Seats(options)
        self._leftovers = groups.Leftovers(options.grace)
        self._keeper = Keeper(
            id,
            subscriptions,
            # Two for each child, as its successor may start before it has ended.
            [Worker.table(subscriptions, options) for _ in range(2 * options.processes)],
            details={"processes": options.processes, "threads": options.threads, "concurrency": options.concurrency},
            options=options,
            heartbeat=heartbeat,
            wake_supervisor=self._signals.wake,
        )
        self._spawner = Spawner(
            id,
            subscriptions,
            options,
            self._keeper,
            self._signals,
            pipe_ends=self._pipe_ends,
            before_fork=before_fork,
            on_idle=on_idle,
        )
        self._reports = Reports(self._spawner.fork, wake_supervisor=self._signals.wake, pipe_ends=self._pipe_ends)
        self._events = EventRelay()
        self._summary = Summary(id, subscriptions, options)
        self._post_mortem = PostMortem(subscriptions, self._reports, self._events, self._summary)
        self._watch = Watch(self._seats, subscriptions, self._reports, time_limit=options.time_limit)
        self._health = Health(self._seats, self._keeper, self._reports, grace=options.grace)

    def run(self) -> int:
        """Work until stopped, or until the options say so. Returns the exit code. Blocks. Only for the main thread.

        1: it could not go on (``failure``); 128 + number: a second signal; 75: running items were cut; else 0.
        """
        self._spawner.prepare()
        with self._signals, self._logging_in_keeper():
            try:
                self._spawner.start_keeper()  # it logs what follows
                self._summary.begin(logger.log)
                self._supervise()
                self._send_last_reports()
                self._summary.end(logger.log)
                return 1 if self.failure else self._shutdown.exit_code(cut_items=self._post_mortem.cut_items)
            finally:
                for child in self._seats.children:
                    child.kill("the supervisor broke")
                self._leftovers.end(latest=0)
                silent = self._reports.servers  # in the time for the last reports they have not taken them
                self._reports.end()
                self._keeper.end(silent, within=LEAST_WORDS if self._away else SHORT_WORDS)

    @contextmanager
    def _logging_in_keeper(self) -> Iterator[None]:
        """Have the keeper log the supervisor's records.

        A log may block. While the supervisor waited for it, it would not look after its children or handle signals.
        """
        pid = os.getpid()

        def is_logged_here(record: logging.LogRecord) -> bool:
            return os.getpid() != pid or not self._keeper.pass_on(record)

        logger.addFilter(is_logged_here)
        try:
            yield
        finally:
            logger.removeFilter(is_logged_here)

    def _supervise(self) -> None:
        """Look after children until the last one has ended and no further one is to be started."""
        while True:
            self._start_processes()
            if not self._seats.children and not self._vacant() and not self._leftovers:
                return
            self._signals.wait(self._until_next())
            for number in self._signals.read():
                self._on_signal(number)
            self._reap()
            self._enforce()
            self._tend()

    def _send_last_reports(self) -> None:
        """Wait for the reports, but not longer than ``LAST_WORDS``, nor after a further signal.

        The items of reports that are not made come back when their leases end. A server that is away is not waited for
        if the reports are about no items.
        """
        now = time.monotonic()
        while self._reports and time.monotonic() < (give_up := now + self._last_words):
            self._reports.send()
            self._signals.wait(max(0.0, min(self._reports.next_moment, give_up) - time.monotonic()))
            self._reports.collect()
            for number in self._signals.read():
                self._on_signal(number)
                if number in stop_signals.NUMBERS and self._shutdown.is_immediate:
                    return

    @property
    def _last_words(self) -> float:
        """Seconds for the last reports."""
        return min(self._patience, AT_ONCE) if self._shutdown.is_immediate else self._patience

    @property
    def _patience(self) -> float:
        """Seconds for the last reports unless a person wants the consumer to stop at once."""
        about = self._reports.about
        if about is About.ITEMS or (about is About.CLAIM and not self._away):
            return LAST_WORDS
        return SHORT_WORDS if self._away else FORMAL_WORDS

    @property
    def _away(self) -> bool:
        """Whether a server is known to be away."""
        return self._post_mortem.met_trouble or self._health.in_trouble

    def _until_next(self) -> float:
        """Seconds until there is something to do even if no signal comes and no process wakes the supervisor."""
        now = time.monotonic()
        moments = [self._health.next_moment, self._watch.next_moment, self._reports.next_moment]
        moments += [self._due(seat) for seat in self._vacant()]
        if not self._keeper.lives:
            moments.append(self._keeper.due)
        if not self._shutdown.is_over:
            moments.append(self._shutdown.deadline)
        if self._leftovers:
            moments.append(now + LEFTOVERS_LOOK)
        return max(0.0, min(moments) - now)

    # -- starting processes

    def _start_processes(self) -> None:
        if not self._keeper.lives and time.monotonic() >= self._keeper.due:
            self._spawner.start_keeper()
        for seat in self._vacant():
            if time.monotonic() >= self._due(seat):
                try:
                    seat.child = self._spawner.start_child(seat.items_left)
                except OSError as error:  # the other children go on
                    logger.error("cannot start a child process: %s", error)
                    seat.postpone()

    def _vacant(self) -> list[Seat]:
        """The seats for which a child is to be started, now or later."""
        return [] if self._shutdown.has_begun or self.failure else self._seats.vacant

    def _due(self, seat: Seat) -> float:
        """The moment from which on the next child of a seat may be started."""
        return max(seat.due, seat.reported + ORDER) if self._reports.untried(seat.reported) else seat.due

    def _pipe_ends(self) -> list[int]:
        """The supervisor's ends of its pipes to other processes."""
        ends = [
            *(child.control_fd for child in self._seats.children),
            self._keeper.control_fd,
            *self._reports.read_ends,
        ]
        return [end for end in ends if end is not None]

    # -- signals

    def _on_signal(self, number: int) -> None:
        if number in stop_signals.NUMBERS:
            self._stop(number)
        elif number == signal.SIGHUP:
            self._seats.replace_all()

    def _stop(self, number: int) -> None:
        notify("STOPPING=1")
        if self._shutdown.request(number):
            logger.info(
                "stopping: running handlers have %g s to finish; a second signal stops at once", self._shutdown.grace
            )
            self._keeper.stop()
            self._stop_children()
            self._leftovers.stop()

    def _stop_children(self) -> None:
        for child in self._seats.children:
            child.stop()

    # -- ends of processes

    def _reap(self) -> None:
        if self._keeper.reap():
            logger.error("the process that renews the leases ended, restarting it")
        for child in self._seats.children:
            if exit := child.reap():
                self._bury(exit)
        self._reports.collect()
        children = [child.pid for child in self._seats.children]
        groups.reap_orphans([self._keeper.pid, *self._reports.pids, *children])

    def _bury(self, exit: ChildExit) -> None:
        child = exit.child
        self._end_group(exit)
        os.close(child.control_fd)
        seat = self._seats.vacate(exit)
        self.failure = self.failure or self._seats.failure
        if child.ledger.fatal and not self.failure:
            self.failure = child.ledger.trouble
            self._stop_children()
        elif exit.unexplained:
            logger.error("child died consumer=%s pid=%d how=%s", child.id, child.pid, exit.description)
        if self._shutdown.has_begun:
            self._health.keep_trouble(child)
        self._post_mortem.examine(exit)
        if seat is not None:
            seat.reported = time.monotonic()
        self._keeper.give_back_ledger(child.ledger)
        self._reports.send()

    def _end_group(self, exit: ChildExit) -> None:
        """Kill the programs that the handlers of a dead child started, or let them go on if it ended normally.

        After a death its items are delivered again, and these programs must not work at the same time.
        """
        if exit.premature or exit.child.kill_reason:
            groups.kill_group(exit.child.pid)
        else:
            self._leftovers.add(exit.child.pid)

    # -- children that live

    def _enforce(self) -> None:
        """Kill children and programs that take too long; have children make way for successors."""
        if self._shutdown.is_over:
            for child in self._seats.children:
                child.kill(STOPPED)
        self._watch.enforce_time_limit()
        for group in self._leftovers.end(self._shutdown.deadline):
            logger.warning(
                "killed at the end of the grace period: programs that handlers started, in process group %d", group
            )
        self._seats.make_way()

    def _tend(self) -> None:
        self._watch.look_for_waiting_items()
        self._reports.send()
        for child in self._seats.children:
            child.flush()  # the rest of a line that did not fit before, such as a STOP; before any event
        self._events.pass_on(self._seats.children)
        self._health.tell()
