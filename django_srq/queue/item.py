"""What ``get`` returns."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django_srq.operations.delivery import Delivery
from django_srq.operations.identifiers import uid_time


class Item(tuple[str | None, Any]):
    """A pair that unpacks to ``(uid, payload)``; falsy, and equal to ``(None, None)``, when there was none.

    To see whether there was one, test the ``Item`` and not the payload, which may be falsy itself.
    """

    delivery: Delivery
    lapsed: Callable[[], bool] | None = None  # set by srq_consume; lease_lost calls it
    attempt: object = None  # of an item that is a task: what its runner knows of this attempt

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
        """Identifies the item, over all its deliveries; None when there was none."""
        return self[0]

    @property
    def payload(self) -> Any:
        """What was put, as the serializer reads it back; None also when there was no item."""
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
        """Whether its lease has certainly ended, so that another consumer may have the item; in ``srq_consume`` only.

        It can become False again: if no consumer took the item meanwhile, the next renewal takes the lease back.
        """
        return self.lapsed is not None and self.lapsed()

    @property
    def error(self) -> Mapping[str, Any] | None:
        """The error of its last delivery that had one, as ``items`` and ``page`` read it; an item in hand has none.

        A mapping with ``type``, ``message``, ``time`` (milliseconds since the epoch), ``delivery`` and, where they are
        known, ``traceback`` and ``consumer``.
        """
        return self.delivery.error

    @property
    def errors(self) -> Sequence[Mapping[str, Any]]:
        """Its last errors, five at most, newest first; the first two with their tracebacks. Read as ``error`` is."""
        return self.delivery.errors

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that it was put with; empty when there are none."""
        return self.delivery.headers

    @property
    def enqueued_at(self) -> dt.datetime | None:
        """When it was put (UTC): by the server's clock where recorded, else by the producer's; None if not known."""
        return self.delivery.put_at or (uid_time(self[0]) if self[0] else None)
