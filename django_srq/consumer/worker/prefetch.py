"""Adaptive prefetch: how many items a thread claims at one time, by how long the last ones took."""

from __future__ import annotations

AHEAD = 0.005  # seconds of work that are claimed at one time
MOST = 100  # items that are claimed at one time at most
SHARE = 0.1  # weight of the last item in the moving average


class AdaptivePrefetch:
    """Estimates the time of an item. A slow item raises the estimate at once; quick ones lower it little by little.

    The time of an item is the time of its handler, and after a failure also the time for telling the server. The time
    for sending an ack does not count: it grows with the number of threads, so that many threads would claim few items.

    The estimate begins at one item at a time. So when an item kills its consumer and comes back, the new process has
    claimed no other items with it.
    """

    def __init__(self) -> None:
        self._seconds = AHEAD  # estimated time of an item

    def took(self, seconds: float) -> None:
        self._seconds = max(seconds, self._seconds + SHARE * (seconds - self._seconds))

    @property
    def ahead(self) -> int:
        """How many items are worth claiming at one time."""
        return max(1, min(MOST, int(AHEAD / self._seconds)))
