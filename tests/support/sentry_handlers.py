"""A transport of Sentry's SDK and handlers for processes of srq_consume."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

from sentry_sdk.transport import Transport

logger = logging.getLogger("shop")


class ToFile(Transport):
    """Appends events to the file SRQ_TEST_EVENTS when it is flushed: what nobody flushes is missing there."""

    def __init__(self, options: dict[str, object] | None = None) -> None:
        super().__init__(options)
        self._waiting: list[bytes] = []

    def capture_envelope(self, envelope) -> None:
        self._waiting += [item.payload.get_bytes() for item in envelope.items if item.type in ("event", "transaction")]

    def flush(self, timeout: float, callback: object = None) -> None:
        lines, self._waiting = self._waiting, []
        with Path(os.environ["SRQ_TEST_EVENTS"]).open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))


def failing(payload: dict[str, str]) -> None:
    password = payload["password"]
    logger.warning("the order is %s", payload)
    raise LookupError(f"no such order: password={password}")


async def asynchronous(payload: object) -> None:
    failing({"password": str(payload)})


def killed(payload: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ended(payload: object) -> None:
    """Has srq_consume stopped while it handles the item."""
    os.kill(os.getppid(), signal.SIGTERM)
    raise LookupError("in the end")
