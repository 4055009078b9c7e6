"""Logs once that a server is away, and once that it is back."""

from __future__ import annotations

import time

from django_srq.exceptions import SRQError
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.runtime.guarded_log import guarded

logger = guarded("django_srq.consumer")


def trouble_with(queue: SafeRedisQueue, error: SRQError | str) -> str:
    """A trouble as a text, which processes can share: the server in the first line, and then what is wrong.

    The consumer repeats its calls by itself: the advice for callers is left out.
    """
    said = str(error).removesuffix(f"; {getattr(error, 'advice', '')}")
    return f"{queue.link.address}\nqueue={queue.alias} error={said}"


class Outage:
    """The outages of the servers, each from the first trouble until there is none."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}  # by the server's address, the moment at which its outage began

    def report(self, *troubles: str) -> None:
        """Log the servers that are away or back since the last report. troubles: all that last; "" is none."""
        parts = [trouble.partition("\n") for trouble in reversed(troubles)]
        present = {server: said for server, _, said in parts if said}
        for server, said in present.items():
            if server not in self._since:
                self._since[server] = time.monotonic()
                logger.error("server unavailable, waiting server=%s %s", server, said)
        for server in [server for server in self._since if server not in present]:
            seconds = time.monotonic() - self._since.pop(server)
            logger.info("server available again server=%s after %.1f s", server, seconds)
