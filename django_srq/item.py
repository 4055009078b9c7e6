"""What ``get`` returns."""

from __future__ import annotations

import datetime as dt
import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_LATEST = 253_402_128_000  # seconds; 9999-12-30, so that it is in the calendar of every time zone
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


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


class Item(tuple[str | None, Any]):
    """A pair that unpacks to ``(uid, payload)``; falsy, and equal to ``(None, None)``, when there was none.

    Whether there is an item is asked of the ``Item``, never of the payload, which may be falsy itself.
    """

    delivery: Delivery
    lapsed: Callable[[], bool] | None = None  # asked by lease_lost

    def __new__(cls, uid: str | None = None, payload: Any = None, delivery: Delivery | None = None) -> Item:
        self = super().__new__(cls, (uid, payload))
        self.delivery = delivery or Delivery(headers={})
        return self

    def __bool__(self) -> bool:
        return self[0] is not None

    def __repr__(self) -> str:
        # Without the payload: reprs end up in logs.
        return f"<Item {self[0]} deliveries={self.deliveries}>" if self else "<Item none>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self[0], self[1], self.delivery)

    @property
    def uid(self) -> str | None:
        return self[0]

    @property
    def payload(self) -> Any:
        return self[1]

    @property
    def token(self) -> str:
        """Names this delivery; empty when the item was only looked at."""
        return self.delivery.token

    @property
    def deliveries(self) -> int:
        """How often the item was handed out, this time included."""
        return self.delivery.deliveries

    @property
    def lease_lost(self) -> bool:
        """Whether its lease has certainly ended, so that somebody else may have the item; in ``srq_consume`` only.

        It can become False again: a lease that ended, but whose item nobody took, is taken back by the next renewal.
        """
        return self.lapsed is not None and self.lapsed()

    @property
    def headers(self) -> Mapping[str, str]:
        return self.delivery.headers

    @property
    def enqueued_at(self) -> dt.datetime | None:
        """When it was put (UTC): by the server's clock where recorded, else by the producer's; None if not known."""
        return self.delivery.put_at or (uid_time(self[0]) if self[0] else None)


def from_milliseconds(milliseconds: float) -> dt.datetime:
    """The moment (aware, UTC) so many milliseconds after the epoch; for any beyond the calendar, one at its end."""
    return dt.datetime.fromtimestamp(min(milliseconds / 1000, _LATEST), dt.UTC)


def new_uid() -> str:
    """A version 7 UUID (RFC 9562, 5.7): 48 bits of milliseconds, then random bits."""
    digits = ((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10)).hex()
    # By hand, which is faster than str(UUID(…)): every put needs one.
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def uid_time(uid: str) -> dt.datetime | None:
    """The moment at which a version 7 uid was made (RFC 9562, 5.7), by its maker's clock; None for any other uid."""
    try:
        parsed = uuid.UUID(uid)
    except ValueError:
        return None
    return from_milliseconds(parsed.int >> 80) if parsed.version == 7 else None
