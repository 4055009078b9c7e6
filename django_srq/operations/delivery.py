"""One delivery of an item."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Delivery(NamedTuple):
    """One delivery of an item, and what is known of the item besides its payload."""

    token: str = ""  # names this delivery; empty for an item that was only looked at
    deliveries: int = 0  # this one included
    crashes: int = 0  # deliveries that ended with the death of the consumer
    number: str = ""  # number of the put, where it is recorded: for a uid that the caller chose, among others
    priority: int = 0
    headers: Mapping[str, str] = {}
    put_at: dt.datetime | None = None  # by the server's clock, where it is recorded
    state: str = "in_flight"
    when: dt.datetime | None = None  # due time (delayed), end of the lease (in flight), time of death (dead)
    error: Mapping[str, Any] | None = None  # of the last delivery that had one
    errors: Sequence[Mapping[str, Any]] = ()  # that error and up to four before it, newest first, where they were read
    group: str = ""  # of the error, if the item is dead or retrying

    @property
    def retrying(self) -> bool:
        """Whether the item is delayed after an error. Other delayed items are scheduled, also those of a RetryLater."""
        return self.state == "delayed" and self.group != ""

    @property
    def order(self) -> int:
        """The order number of the item's first claim; 0 when the item was only looked at."""
        return int(self.token.rpartition("/")[2].partition("@")[0]) if self.token else 0
