"""Signs that the consumer is well, for a monitor: the heartbeat file, and messages to systemd."""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

from django_srq.consumer.log_thread import LogThread

HEARTBEAT = 5.0  # seconds between two heartbeats


class Heartbeat:
    """A file whose modification time says when the consumer was last found well; deleted when the consumer ends."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def beat(self) -> None:
        self._path.touch()

    def end(self) -> None:
        self._path.unlink(missing_ok=True)


class HeartbeatThread:
    """Touches the heartbeat file, if there is one, in a thread of its own: a file system may take its time, or hang."""

    def __init__(self, heartbeat: Heartbeat | None, log: LogThread) -> None:
        self._heartbeat, self._log = heartbeat, log
        self._due, self._ending, self._ended = threading.Event(), threading.Event(), threading.Event()
        if heartbeat:
            threading.Thread(target=self._run, args=[heartbeat], name="srq-heartbeat", daemon=True).start()

    def beat(self) -> None:
        self._due.set()

    def end(self, seconds: float) -> None:
        """Delete the file. Waits for that for so many seconds at most."""
        if self._heartbeat:
            self._ending.set()
            self._due.set()
            self._ended.wait(seconds)

    def _run(self, heartbeat: Heartbeat) -> None:
        while self._due.wait():
            self._due.clear()
            try:
                if self._ending.is_set():
                    heartbeat.end()
                    self._ended.set()
                    return
                heartbeat.beat()
            except OSError as error:
                self._log.log(logging.ERROR, "no heartbeat: %s", error)


def interval() -> float:
    """Seconds between two heartbeats: at most half the time in which systemd expects one (sd_watchdog_enabled(3))."""
    watchdog = os.environ.get("WATCHDOG_USEC", "")
    return min(HEARTBEAT, int(watchdog) / 2e6) if watchdog.isdecimal() and int(watchdog) else HEARTBEAT


def notify(state: str) -> bool:
    """Send a state to systemd, if it asked for that (sd_notify(3)): ``READY=1``, ``WATCHDOG=1`` or ``STOPPING=1``.

    Does not block. False: the socket has no room for it now. The keeper does not call this, as by default systemd
    listens to the main process only.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return True
    # An @ stands for the zero byte of Linux's abstract sockets.
    address = "\0" + address[1:] if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(state.encode(), address)
        except BlockingIOError:
            return False
    return True
