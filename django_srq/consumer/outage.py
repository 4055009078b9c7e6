"""Logs once that a server is away, and once that it is back."""

from __future__ import annotations

from django_srq.consumer.log import guarded

logger = guarded("django_srq.consumer")


class Outage:
    """An outage of one server or of several: from the first trouble until there is none."""

    def __init__(self) -> None:
        self._lasts = False

    def report(self, trouble: str) -> None:
        """Log the beginning or the end of an outage. trouble: what is wrong; empty when nothing is."""
        if trouble and not self._lasts:
            logger.error("server unavailable, waiting %s", trouble)
        elif self._lasts and not trouble:
            logger.info("server available again")
        self._lasts = bool(trouble)
