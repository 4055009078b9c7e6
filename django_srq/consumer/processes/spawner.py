"""Forks the processes of a consumer: keeper, children, reporters."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from django_srq import operations
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.processes import groups
from django_srq.consumer.processes.child import ChildMain
from django_srq.consumer.processes.child_handle import ChildHandle
from django_srq.consumer.processes.keeper import Keeper
from django_srq.consumer.signal_pipe import SignalPipe
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.claims import claim_slots
from django_srq.runtime.guarded_log import guarded

logger = guarded("django_srq.consumer")


_SCRIPTS = ("ack", "claim", "crashed", "extend", "fail", "register", "release", "withdraw")  # that consumers run


class Spawner:
    """Starts the processes; the supervisor decides when."""

    def __init__(
        self,
        consumer: str,
        subscriptions: Sequence[Subscription],
        options: ConsumerOptions,
        keeper: Keeper,
        signals: SignalPipe,
        *,
        pipe_ends: Callable[[], Iterable[int]],
        before_fork: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        """pipe_ends: the supervisor's ends of its pipes to all other processes. before_fork: called before each fork.

        on_idle: called in each thread of a child when it has nothing to do.
        """
        self._consumer, self._subscriptions, self._options = consumer, subscriptions, options
        self._keeper, self._signals, self._pipe_ends = keeper, signals, pipe_ends
        self._before_fork, self._on_idle = before_fork, on_idle
        self._count = 0  # of children

    def prepare(self) -> None:
        """Prepare the scripts once, here: each forked process would need 20 ms for it while an item waits."""
        for name in _SCRIPTS:
            operations.Script.named(name)
        "".encode("idna")  # loads the codec that Python uses for the names of servers

    def fork(self) -> int:
        """As ``os.fork``; the new process takes none of the supervisor's signals."""
        self._before_fork()  # each time: the project's log handlers may have opened connections since the last fork
        with self._signals.hold_back():  # else a signal that reaches the child at once would be written into our pipe
            pid = os.fork()
            if pid == 0:
                self._forget_signals()
        return pid

    def _forget_signals(self) -> None:
        """In a child: stop taking the supervisor's signals.

        An error here ends the child, as it must never return into the supervisor's loop.
        """
        try:
            self._signals.forget()
        except BaseException:
            os._exit(1)

    def start_keeper(self) -> None:
        try:
            self._keeper.start(self.fork, self._pipe_ends())
        except OSError as error:  # until a keeper can be started, the children renew their leases themselves
            logger.error("cannot start the process that renews the leases: %s", error)

    def start_child(self, max_items: int | None) -> ChildHandle:
        """Fork a child that handles so many items at most. OSError: there is no memory, or too many processes."""
        self._count += 1
        id = f"{self._consumer}.{self._count}"
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed before Python began
            stream.flush()  # else the child would write the contents of the buffers once more
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        ledger: Ledger | None = None
        try:
            ledger = self._keeper.take_ledger(claim_slots(id)[0], self._count)
            pid = self.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            if ledger is not None:
                self._keeper.give_back_ledger(ledger)
            raise
        if pid == 0:
            self._be_child(id, ledger, reading, writing, max_items)
        os.close(reading)
        groups.lead(pid)  # the child does the same; the first of the two calls counts
        return ChildHandle(id, pid, ledger, writing)

    def _be_child(self, id: str, ledger: Ledger, control_fd: int, other_end: int, max_items: int | None) -> NoReturn:
        """Work as a child, in the forked process; does not return into the supervisor's code."""
        try:
            groups.lead()
            # With these ends open here, this process and others would not notice the supervisor's death: a pipe ends
            # only when its last writer has closed it.
            for end in (other_end, *self._pipe_ends()):
                os.close(end)
            ledger.belong_to_this_process()
            ChildMain(
                id,
                self._subscriptions,
                ledger,
                self._options,
                control_fd=control_fd,
                wake_supervisor=self._signals.wake,
                max_items=max_items,
                on_idle=self._on_idle,
            ).run()
        except BaseException:
            logger.exception("the child process failed to start")
        finally:
            os._exit(1)
