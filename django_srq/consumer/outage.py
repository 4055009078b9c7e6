"""Logs once that a server is away, and once that it is back."""

from __future__ import annotations

from django_srq.consumer.log import guarded

logger = guarded("django_srq.consumer")


class Outage:
    def __init__(self) -> None:
        self._on = False

    def report(self, trouble: str) -> None:
        """Log the beginning or the end of an outage. trouble: what is wrong; empty when nothing is."""
        if trouble and not self._on:
            logger.error("server unavailable, waiting %s", trouble)
        elif self._on and not trouble:
            logger.info("server available again")
        self._on = bool(trouble)
