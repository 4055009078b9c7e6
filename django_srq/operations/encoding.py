"""How arguments are written for the scripts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

from django_srq.operations.replies import DeliveryRef


def milliseconds(seconds: float) -> int:
    """Whole milliseconds; at least 1 for anything above 0, so that a short time does not become none."""
    return max(1, round(seconds * 1000)) if seconds > 0 else 0


def encode_int(value: int) -> bytes:
    return b"%d" % value


def encode_flag(value: bool) -> bytes:
    return b"1" if value else b"0"


def encode_moment(moment: dt.datetime) -> bytes:
    return encode_int(round(moment.timestamp() * 1000))


def encode_held(held: Iterable[DeliveryRef], results: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """results: empty, or for each delivery the result to keep, from ``kept``; b"" for none."""
    args = [part.encode() for ref in held for part in ref]
    if any(results):
        # Behind the number of the put, and not as an argument of its own: that would slow down every ack without it.
        numbers = zip(args[2::3], results, strict=True)
        args[2::3] = [number + b" " + result if result else number for number, result in numbers]
    return tuple(args)


def kept(ttl: float, most: int, outcome: bytes) -> bytes:
    """A result to keep, for ``ack``, ``claim`` and ``cancel``; b"", for none, if ttl or most is 0.

    ttl: seconds for which it is kept. most: results of the queue at most; the oldest are deleted. outcome: JSON.
    """
    return b"%d %d %b" % (milliseconds(ttl), most, outcome) if ttl > 0 and most > 0 else b""


def encode_choice(cursor: str, older_than: float, error: str) -> tuple[bytes, ...]:
    return cursor.encode(), encode_int(milliseconds(older_than)), error.encode(errors="backslashreplace")
