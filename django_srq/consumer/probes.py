"""Signs that the consumer is well, for a monitor: the heartbeat file, and messages to systemd."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

HEARTBEAT = 5.0  # seconds between two heartbeats


class Heartbeat:
    """A file whose modification time says when the consumer was last found well; deleted when the consumer ends."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def beat(self) -> None:
        self._path.touch()

    def end(self) -> None:
        self._path.unlink(missing_ok=True)


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
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
        end.setblocking(False)
        try:
            end.sendto(state.encode(), address)
        except BlockingIOError:
            return False
    return True
