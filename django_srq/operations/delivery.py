"""One delivery of an item."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, NamedTuple


class Delivery(NamedTuple):
    """One handing out of an item, and what is known of the item besides its payload."""

    token: str = ""  # names this delivery; empty for an item that was only looked at
    deliveries: int = 0  # this one included
    crashes: int = 0  # deliveries that ended with the consumer's death
    number: str = ""  # number of the put, for a uid of the caller's own; else empty
    priority: int = 0
    headers: Mapping[str, str] = {}
    put_at: dt.datetime | None = None  # as the server saw it, where it was recorded
    state: str = "in_flight"
    when: dt.datetime | None = None  # due (delayed), lease's deadline (in flight), death (dead)
    error: Mapping[str, Any] | None = None  # the last one

    @property
    def order(self) -> int:
        """The order number of the item's first claim; 0 when it was only looked at."""
        return int(self.token.rpartition("/")[2].partition("@")[0]) if self.token else 0
