"""How arguments are written for the scripts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

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


def encode_held(held: Iterable[DeliveryRef]) -> tuple[bytes, ...]:
    return tuple([part.encode() for ref in held for part in ref])


def encode_choice(cursor: str, older_than: float, error: str) -> tuple[bytes, ...]:
    return cursor.encode(), encode_int(milliseconds(older_than)), error.encode(errors="backslashreplace")
