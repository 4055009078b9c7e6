"""How many items a thread may claim ahead, by how long they took of late."""

from __future__ import annotations

AHEAD = 0.005  # seconds of work that are claimed at one time
MOST = 100  # items
SHARE = 0.1  # of the last item in the average


class AdaptivePrefetch:
    """A slow item counts at once, quick ones little by little: after a long one it takes many that are short.

    What counts is the handler, and for a failure how long it took to be told. Not the sending of an ack, which is the
    slower the more threads there are: they would claim the fewer items at one time.

    It begins with one item at a time, also so that an item which kills its consumer has taken no others with it when it
    comes back.
    """

    def __init__(self) -> None:
        self._seconds = AHEAD  # that an item takes

    def took(self, seconds: float) -> None:
        self._seconds = max(seconds, self._seconds + SHARE * (seconds - self._seconds))

    @property
    def ahead(self) -> int:
        """How many items are worth claiming at one time."""
        return max(1, min(MOST, int(AHEAD / self._seconds)))
