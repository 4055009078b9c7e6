"""What runs in a child process of the supervisor."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn

from django_srq import signals
from django_srq.consumer import dispositions, forks
from django_srq.consumer.leases import Leases
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.processes import groups
from django_srq.consumer.processes.child_handle import ASK, STOP
from django_srq.consumer.processes.event_relay import EventSender
from django_srq.consumer.processes.farewell import leave
from django_srq.consumer.processes.orphan import Orphan
from django_srq.consumer.subscription import StopConsuming, Subscription
from django_srq.consumer.worker.worker import Worker
from django_srq.exceptions import SRQError
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.runtime import interruption
from django_srq.runtime.guarded_log import guarded

logger = guarded("django_srq.consumer")

# Seconds that servers have for the last calls of a child with nothing in hand; the latter once one of them is away.
PATIENCE, PATIENCE_IN_TROUBLE = 0.75, 0.3
SOONER = 0.5  # seconds by which a child ends before the supervisor would kill it, so that it can log what it cuts


class ChildMain:
    """A worker, and a thread that listens to the supervisor."""

    def __init__(
        self,
        id: str,
        subscriptions: Sequence[Subscription],
        ledger: Ledger,
        options: ConsumerOptions,
        *,
        control_fd: int,
        wake_supervisor: Callable[[], None],
        max_items: int | None,
        on_idle: Callable[[], None],
    ) -> None:
        """control_fd: the pipe that the supervisor writes to. wake_supervisor: has the supervisor look at the ledger.

        max_items: end after so many items; None: any number. on_idle: called in each thread when it has nothing to do.
        """
        self._ledger, self._control_fd, self._wake_supervisor = ledger, control_fd, wake_supervisor
        self._id, self._subscriptions, self._options = id, subscriptions, options
        self._stop_at: float | None = None  # the moment at which the grace is over
        self._orphaned = threading.Event()  # set when the supervisor is gone
        self._events = EventSender(on_idle)
        self._leases = Leases(id, subscriptions, lambda: [ledger])
        self._worker = Worker(
            subscriptions,
            ledger,
            consumer=id,
            options=options,
            report=self._report,
            ready=wake_supervisor,  # from now on this child can send signals for the supervisor
            max_items=max_items,
            on_idle=on_idle,
            replaced=True,
        )

    def run(self) -> None:
        """Work until stopped, or until the options say so; then end the process. Does not return."""
        code = 1
        interruption.rule_out()
        # Objects from before the fork stay: to collect garbage among them would cost time, and copy their pages.
        gc.freeze()
        try:
            self._prepare_process()
            signals.send(signals.child_started, SafeRedisQueue, consumer=self._id)
            self._start_threads()
            self._worker.run()
            code = 0
        except (SRQError, StopConsuming) as error:
            self._ledger.report(str(error), fatal=True)
        except BaseException:
            logger.exception("the worker failed")
        finally:
            if self._orphaned.is_set():
                self._leases.sign_off()
            self._leave(code)

    def _prepare_process(self) -> None:
        dispositions.take(signal.SIGTERM, lambda number: self._take_no_more())
        dispositions.unignore()
        groups.do_without_terminal()
        forks.keep_private(self)

    def _start_threads(self) -> None:
        # A thread of its own renews the leases that the keeper did not renew in time; it may be stopped. While a
        # handler holds the interpreter's lock, that thread does not run either: then nobody renews. Keeper and child
        # may renew at the same time, as a renewal only makes a lease longer, and only for its own delivery.
        renew_overdue = partial(self._leases.renew_overdue_until, self._orphaned)
        for name, target in (
            ("srq-listen", self._listen),
            ("srq-events", self._events.run),
            ("srq-leases", renew_overdue),
        ):
            threading.Thread(target=target, name=name, daemon=True).start()

    def _leave(self, code: int) -> NoReturn:
        if code == 0 and self._stop_at is not None:
            self._ledger.want_successor()
        self._ledger.leave()
        within = self._options.grace if self._stop_at is None else self._stop_at - time.monotonic()
        leave(code, consumer=self._id, within=within - min(SOONER, self._options.grace / 10))

    def close_in_fork(self) -> None:
        """In a fork that a handler made: close the pipe, as the supervisor does not talk to that process."""
        os.close(self._control_fd)
        self._control_fd = -1

    def _report(self, trouble: str) -> None:
        self._ledger.report(trouble)
        self._wake_supervisor()

    def _listen(self) -> None:
        unread = b""
        while data := os.read(self._control_fd, 65536):
            self._wake_supervisor()  # the pipe has room again
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                self._obey(line + b"\n")
        # The supervisor is gone, perhaps with the keeper: renew the leases here. Take no more items: when this child
        # dies, nothing starts another one.
        self._orphaned.set()
        self._stop()
        Orphan(self._id, self._subscriptions, self._ledger, self._options, self._leases.log).run(self._leases)

    def _obey(self, line: bytes) -> None:
        if line == STOP:
            self._stop()
        elif line == ASK:
            self._ledger.answer()
        else:
            self._events.add(line)

    def _take_no_more(self) -> None:
        self._stop_at = self._stop_at or time.monotonic() + self._options.grace
        self._worker.stop()

    def _stop(self) -> None:
        self._take_no_more()
        patience = {"after": PATIENCE, "after_trouble": PATIENCE_IN_TROUBLE}
        end_soon = partial(self._worker.end_soon, threading.Event(), **patience)
        threading.Thread(target=end_soon, name="srq-end", daemon=True).start()
        with suppress(SRQError):  # the worker meets the same error, and reports it
            self._worker.give_back()
