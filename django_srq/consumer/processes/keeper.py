"""The keeper: a process beside the children that renews the leases of the items they have in hand.

The supervisor cannot do that itself: it may have to wait, such as for a fork, or a person may stop it; and as it forks,
it must have no threads. The keeper never forks. It has a thread for each server, for the log and for the heartbeat
file: so if one thread or the supervisor is blocked, no other lease ends. If the keeper itself is stopped or killed, the
children renew their leases themselves until it is back.

If the supervisor is killed, the keeper lives on as long as the children. So a child whose handler holds the
interpreter's lock keeps its leases, and the keeper enforces its limits.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress

from django_srq.consumer.leases import LAST_LINES
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.probes import Heartbeat
from django_srq.consumer.processes.keeper_main import PATIENCE, KeeperMain
from django_srq.consumer.processes.keeper_pipe import BEAT, END, END_SOON, STOPPING, KeeperPipe
from django_srq.consumer.subscription import Subscription
from django_srq.transport.link import Link

AGAIN = 1.0  # seconds at least between two starts
_OPTIONS = ConsumerOptions()


class Keeper:
    """The keeper, as the supervisor knows it. ``KeeperMain`` runs in its process."""

    def __init__(
        self,
        consumer: str,
        subscriptions: Sequence[Subscription],
        ledgers: Sequence[Ledger],
        *,
        details: Mapping[str, object],
        options: ConsumerOptions = _OPTIONS,
        heartbeat: Heartbeat | None,
        wake_supervisor: Callable[[], None],
    ) -> None:
        """ledgers: of all children, including those to come. wake_supervisor: has it look at ``troubles``.

        details: further fields of the consumer's registration in the queues.
        """
        self._main = KeeperMain(
            consumer,
            subscriptions,
            ledgers,
            details=details,
            options=options,
            heartbeat=heartbeat,
            wake_supervisor=wake_supervisor,
        )
        self._free = deque(ledgers)
        self._pipe = KeeperPipe()
        self._stopping = False
        self.pid = 0
        self.due = 0.0  # the moment from which on it may be started

    @property
    def troubles(self) -> list[str]:
        """The troubles with servers that last."""
        return self._main.troubles

    def take_ledger(self, slot: bytes, number: int) -> Ledger:
        """Take a ledger for a new child; OSError when none is left. slot, number: see ``Ledger.reset``."""
        if not self._free:
            raise BlockingIOError("too many children are about to end")
        ledger = self._free.popleft()
        ledger.reset(slot, number)
        return ledger

    def give_back_ledger(self, ledger: Ledger) -> None:
        ledger.reset(b"", 0)  # it must not name a process id that the system may give to another process
        self._free.append(ledger)

    @property
    def lives(self) -> bool:
        """Whether it was started and was not found to have ended."""
        return self._pipe.fd is not None

    @property
    def control_fd(self) -> int | None:
        """The supervisor's end of the pipe to it; None: it does not live."""
        return self._pipe.fd

    def start(self, fork: Callable[[], int], others: Iterable[int]) -> None:
        """Fork the keeper, and wait ``PATIENCE`` at most until it is ready. OSError: it cannot be forked.

        others: the pipes to the children. The keeper closes them: else the children would not notice the supervisor's
        death.
        """
        self.due = time.monotonic() + AGAIN
        try:
            ready_fd = self._fork(fork, others)
        except OSError:
            self._pipe.close()
            raise
        try:
            _wait_for(ready_fd, PATIENCE)  # from then on it has its name, and no signal ends it
        finally:
            os.close(ready_fd)
        if self._stopping:
            self._pipe.write(STOPPING)

    def _fork(self, fork: Callable[[], int], others: Iterable[int]) -> int:
        """Fork the keeper. Returns the pipe into which it writes when it is ready."""
        with ExitStack() as keepers_ends:  # closed here, as only the keeper uses them
            control_fd, own_end = self._pipe.open()
            keepers_ends.callback(os.close, control_fd)
            ready_fd, writing = os.pipe()
            keepers_ends.callback(os.close, writing)
            try:
                self.pid = fork()
            except OSError:
                os.close(ready_fd)
                raise
            if self.pid == 0:
                self._main.run(control_fd, writing, [own_end, ready_fd, *others])
        return ready_fd

    def reap(self) -> bool:
        """Whether it has ended unasked since the last call. Then it can be started again."""
        if not self.lives or not self._has_ended():
            return False
        self._pipe.close()
        return True

    def beat(self) -> None:
        """Tell the keeper that all is well, so that it touches the heartbeat file."""
        self._pipe.write(BEAT)

    def stop(self) -> None:
        """Tell the keeper that the consumer is stopping; it renews the leases until ``end``."""
        self._stopping = True
        self._pipe.write(STOPPING)

    def pass_on(self, record: logging.LogRecord) -> bool:
        """Have the keeper log a record of the supervisor's. Does not block. False: there is no keeper.

        If the pipe has no room, the record is dropped; their number is logged later.
        """
        if self.lives:
            self._pipe.write_record(record)
        return self.lives

    def end(self, silent: Collection[Link] = (), *, within: float = PATIENCE) -> None:
        """Have the keeper end, wait for that (``PATIENCE`` + ``LAST_LINES`` at most, then kill it), and sign off.

        From then on nobody renews the leases, and the queues do not list the consumer any more. silent, within: see
        ``Leases.sign_off``.
        """
        if self.lives:
            self._pipe.write(b"\n" + (END_SOON if silent else END))  # a newline first, in case the line before was cut
            give_up = time.monotonic() + PATIENCE + LAST_LINES
            while not (ended := self._has_ended()) and time.monotonic() < give_up:
                time.sleep(0.01)
            if not ended:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                self._has_ended()
            self._pipe.close()
        self._main.sign_off(silent, within=within)

    def _has_ended(self) -> bool:
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # other code in this process has waited for it
            return True


def _wait_for(fd: int, seconds: float) -> None:
    """Wait until there is something to read, or until the other end is closed."""
    watched = select.poll()  # not select(), which knows only descriptors below 1024
    watched.register(fd, select.POLLIN)
    watched.poll(seconds * 1000)
