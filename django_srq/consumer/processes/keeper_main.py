"""The code that runs in the keeper's process."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn

from django_srq.consumer.leases import LAST_LINES, Leases
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.probes import Heartbeat, HeartbeatThread
from django_srq.consumer.processes import groups
from django_srq.consumer.processes.keeper_pipe import BEAT, END, END_SOON, STOPPING, unpack
from django_srq.consumer.processes.orphan import LOOK_EVERY, Orphan
from django_srq.consumer.shared_text import SharedText
from django_srq.consumer.subscription import Subscription
from django_srq.queue import instrumentation
from django_srq.runtime.process import set_title
from django_srq.transport.link import Link

NAME = "srq-keeper"  # as ps and top show it
UP = b"u"  # what the keeper writes when it is ready
PATIENCE = 2.0  # seconds for its start, and for its end
PATIENCE_IN_TROUBLE = 0.1  # seconds for the end of its calls while a server is away or silent


class KeeperMain:
    """The work of the keeper. The supervisor makes it before the fork, and reads ``troubles``, which they share."""

    def __init__(
        self,
        consumer: str,
        subscriptions: Sequence[Subscription],
        ledgers: Sequence[Ledger],
        *,
        details: Mapping[str, object],
        options: ConsumerOptions,
        heartbeat: Heartbeat | None,
        wake_supervisor: Callable[[], None],
    ) -> None:
        """See ``Keeper``."""
        self._subscriptions, self._ledgers, self._options = subscriptions, ledgers, options
        self._details, self._heartbeat, self._wake_supervisor = details, heartbeat, wake_supervisor
        self._leases = Leases(consumer, subscriptions, self._ledgers_in_use, details=self._current_details)
        self._troubles = [SharedText.allocate() for _ in self._leases.servers]
        self._stopping = False

    @property
    def troubles(self) -> list[str]:
        """The troubles with servers that last."""
        return list(filter(None, map(str, self._troubles)))

    def sign_off(self, silent: Collection[Link] = (), *, within: float = PATIENCE) -> None:
        """Remove the consumer's registrations; called in the supervisor. A server that is away is not waited for.

        silent, within: see ``Leases.sign_off``.
        """
        for server, trouble in zip(self._leases.servers, self._troubles, strict=True):
            server.trouble = str(trouble)
        self._leases.sign_off(silent, within=within)

    def run(self, control_fd: int, ready_fd: int, unused_fds: Iterable[int]) -> NoReturn:
        """Work as the keeper, in the forked process; does not return. ready_fd: where to write that it is ready."""
        code = 1
        try:
            gc.freeze()  # as in a child
            # A service manager or a terminal signals all processes of a consumer; the keeper is needed until the end.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for fd in unused_fds:
                os.close(fd)
            set_title(NAME)
            os.write(ready_fd, UP)
            os.close(ready_fd)
            self.serve(control_fd)
            code = 0
        finally:
            os._exit(code)

    def serve(self, control_fd: int) -> None:
        """Renew leases until the supervisor has it end, or has died and so have all its children. Blocks."""
        log, ended = self._leases.log, threading.Event()
        heartbeat = HeartbeatThread(self._heartbeat, log)
        renewing = threading.Thread(target=self._renew_until, args=[ended], name="srq-keeper", daemon=True)
        renewing.start()
        told_to_end = self._obey(control_fd, heartbeat)
        if told_to_end is None:
            self._outlive_children()
        ended.set()
        renewing.join(PATIENCE_IN_TROUBLE if told_to_end == END_SOON or self.troubles else PATIENCE)
        if told_to_end:
            heartbeat.end(LAST_LINES)
        log.flush(LAST_LINES)
        instrumentation.flush()

    def _obey(self, control_fd: int, heartbeat: HeartbeatThread) -> bytes | None:
        """Do what the supervisor writes, until it writes ``END`` or ``END_SOON``; which. None: it has died. Blocks."""
        unread = b""
        while data := os.read(control_fd, 65536):
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                if line + b"\n" in {END, END_SOON}:
                    return line + b"\n"
                self._obey_line(line + b"\n", heartbeat)
        return None

    def _obey_line(self, line: bytes, heartbeat: HeartbeatThread) -> None:
        if line == BEAT:
            heartbeat.beat()
        elif line == STOPPING:
            self._stopping = True
        else:
            with suppress(ValueError):
                self._leases.log.handle(unpack(line))

    def _outlive_children(self) -> None:
        """Look after the children of a supervisor that was killed, until the last of them has ended. Blocks."""
        self._stopping = True
        log = self._leases.log
        orphans = [
            Orphan(ledger.slot.decode(), self._subscriptions, ledger, self._options, log) for ledger in self._ledgers
        ]
        while orphans := [orphan for orphan in orphans if orphan.look(trouble=bool(self._leases.trouble))]:
            time.sleep(LOOK_EVERY)

    def _renew_until(self, ended: threading.Event) -> None:
        for server, trouble in zip(self._leases.servers, self._troubles, strict=True):
            server.trouble = str(trouble)  # as the keeper before this one left it; the server may be back
            server.on_trouble = partial(self._report, trouble)
        self._leases.renew_until(ended)

    def _report(self, shared: SharedText, trouble: str) -> None:
        shared.write(trouble)
        self._wake_supervisor()

    def _ledgers_in_use(self) -> list[Ledger]:
        return [ledger for ledger in self._ledgers if groups.lives(ledger.pid)]

    def _current_details(self) -> Mapping[str, object]:
        return {**self._details, "state": "stopping"} if self._stopping else self._details
