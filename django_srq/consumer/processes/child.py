"""A child process of the supervisor: ``Child``, as the supervisor knows it, and ``ChildMain``, which runs in it."""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from django_srq import signals
from django_srq.consumer import dispositions, forks
from django_srq.consumer.leases import Leases
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.log import guarded
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.processes import groups
from django_srq.consumer.processes.farewell import leave
from django_srq.consumer.processes.orphan import Orphan
from django_srq.consumer.processes.withdrawal import Withdrawal
from django_srq.consumer.subscription import StopConsuming, Subscription
from django_srq.consumer.worker.worker import Worker
from django_srq.exceptions import SRQError
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.runtime import interruption

logger = guarded("django_srq.consumer")

SOONER = 0.5  # seconds by which a child ends before the supervisor would kill it, so that it can log what it cuts
# The lines that the supervisor writes to a child; any other line is a Django signal to be sent, as JSON. ASK: note in
# the ledger that you can hear.
STOP, ASK = b"stop\n", b"ask\n"


@dataclass
class Child:
    """A child as its supervisor knows it."""

    id: str
    pid: int
    ledger: Ledger
    line: int  # the pipe over which the supervisor talks to it; it ends when the supervisor dies
    born: float = field(default_factory=time.monotonic)
    told_to_stop: bool = False
    killed_for: str = ""  # why the supervisor killed it; "": it did not
    over_limit: set[int] = field(default_factory=set)  # generations of the entries that took too long
    withdrawal: Withdrawal = field(init=False)
    unsaid: bytes = b""  # to be written to the pipe before anything else: the rest of a line, a STOP

    def __post_init__(self) -> None:
        self.withdrawal = Withdrawal(self.ledger, lambda: self.tell(ASK), lambda: groups.is_stopped(self.pid))

    def tell(self, line: bytes) -> bool:
        """Write a line to the child; ``say_on`` writes the rest, if there is one. False: nothing was written.

        Then the pipe is full or the child is dead. Does not block.
        """
        if not self.say_on():
            return False
        written = self._write(line)
        if written:
            self.unsaid = line[written:]
        return written > 0

    def stop(self) -> None:
        if not self.told_to_stop:
            self.told_to_stop = True
            self.unsaid += STOP
            self.say_on()

    def say_on(self) -> bool:
        """Write the rest of earlier lines; whether nothing is left. Does not block.

        The child pokes the supervisor when it has read: then the pipe has room again.
        """
        self.unsaid = self.unsaid[self._write(self.unsaid) :]
        return not self.unsaid

    def _write(self, words: bytes) -> int:
        """Write as many bytes as the pipe has room for; returns their number."""
        try:
            return os.write(self.line, words) if words else 0
        except OSError:  # the child died; or the pipe is full, as a handler holds the interpreter's lock for long
            return 0

    def kill(self, why: str) -> None:
        self.killed_for = self.killed_for or why
        groups.kill(self.pid)


class ChildMain:
    """The child's own side: a worker, and a thread that listens to the supervisor."""

    def __init__(
        self,
        id: str,
        subscriptions: Sequence[Subscription],
        ledger: Ledger,
        options: ConsumerOptions,
        *,
        line: int,
        poke: Callable[[], None],
        max_items: int | None,
        rest: Callable[[], None],
    ) -> None:
        """poke: has the supervisor look at the ledger. line: the pipe that the supervisor writes to.

        max_items: end after so many items; None: any number. rest: called in each thread when it has nothing to do.
        """
        self._ledger, self._line, self._poke = ledger, line, poke
        self._id, self._subscriptions, self._options, self._rest = id, subscriptions, options, rest
        self._orphaned = False
        self._stop_at: float | None = None  # the moment at which the grace is over
        self._alone = threading.Event()  # set when the supervisor is gone
        self._events: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._leases = Leases(id, subscriptions, lambda: [ledger])
        self._worker = Worker(
            subscriptions,
            ledger,
            consumer=id,
            options=options,
            report=self._report,
            ready=poke,  # from now on this child can send signals for the supervisor
            max_items=max_items,
            rest=rest,
            replaced=True,
        )

    def run(self) -> None:
        """Work until stopped, or until the options say so; then end the process. Does not return."""
        code = 1
        interruption.rule_out()
        # Objects from before the fork stay: to collect garbage among them would cost time, and copy their pages.
        gc.freeze()
        try:
            dispositions.take(signal.SIGTERM, lambda number: self._take_no_more())
            dispositions.unignore()
            groups.do_without_terminal()
            forks.keep(self)
            signals.send(signals.child_started, SafeRedisQueue, consumer=self._id)
            for target, name in (
                (self._listen, "srq-listen"),
                (self._send, "srq-events"),
                (self._renew_overdue, "srq-leases"),
            ):
                threading.Thread(target=target, name=name, daemon=True).start()
            self._worker.run()
            code = 0
        except (SRQError, StopConsuming) as error:
            self._ledger.report(str(error), fatal=True)
        except BaseException:
            logger.exception("the worker failed")
        finally:
            if self._orphaned:
                self._leases.sign_off()
            self._leave(code)

    def _leave(self, code: int) -> NoReturn:
        if code == 0 and self._stop_at is not None:
            self._ledger.want_successor()
        self._ledger.leave()
        within = self._options.grace if self._stop_at is None else self._stop_at - time.monotonic()
        leave(code, consumer=self._id, within=within - min(SOONER, self._options.grace / 10))

    def let_go(self) -> None:
        """In a fork that a handler made: close the pipe, as the supervisor does not talk to that process."""
        os.close(self._line)
        self._line = -1

    def _report(self, trouble: str) -> None:
        self._ledger.report(trouble)
        self._poke()

    def _listen(self) -> None:
        heard = b""
        while words := os.read(self._line, 65536):
            self._poke()  # the pipe has room again
            *lines, heard = (heard + words).split(b"\n")
            for line in lines:
                self._hear(line + b"\n")
        # The supervisor is gone, perhaps with the keeper: renew the leases here. Take no more items: when this child
        # dies, nothing starts another one.
        self._orphaned = True
        self._alone.set()
        self._stop()
        Orphan(self._id, self._subscriptions, self._ledger, self._options, self._leases.log).run(self._leases)

    def _renew_overdue(self) -> None:
        """Renew leases that the keeper did not renew in time; it may be stopped.

        While a handler holds the interpreter's lock, this thread does not run either: then nobody renews. Keeper and
        child may renew at the same time, as a renewal only makes a lease longer, and only for its own delivery.
        """
        self._leases.renew_overdue_until(self._alone)

    def _hear(self, line: bytes) -> None:
        if line == STOP:
            self._stop()
        elif line == ASK:
            self._ledger.answer()
        else:
            self._events.put(line)

    def _take_no_more(self) -> None:
        self._stop_at = self._stop_at or time.monotonic() + self._options.grace
        self._worker.stop()

    def _stop(self) -> None:
        self._take_no_more()
        with suppress(SRQError):  # the worker meets the same error, and reports it
            self._worker.give_back()

    def _send(self) -> None:
        """Send Django signals for the supervisor, which runs no code of the project's."""
        named = {"item_recovered": signals.item_recovered, "item_dead": signals.item_dead}
        while True:  # in a thread of its own: receivers may be slow
            event = json.loads(self._events.get())
            signals.send(named[event["signal"]], SafeRedisQueue, **event["about"])
            self._rest()
