"""Identifiers: uids, and the moments in them."""

from __future__ import annotations

import datetime as dt
import os
import time
import uuid

_LATEST = 253_402_128_000  # seconds; 9999-12-30, which every time zone's calendar still has
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def from_milliseconds(milliseconds: float) -> dt.datetime:
    """The moment (aware, UTC) so many milliseconds after the epoch; for any beyond the calendar, 9999-12-30."""
    return dt.datetime.fromtimestamp(min(milliseconds / 1000, _LATEST), dt.UTC)


def new_uid() -> str:
    """A version 7 UUID (RFC 9562, 5.7): 48 bits of milliseconds, then random bits."""
    digits = ((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10)).hex()
    # Every put needs a uid, and this is faster than str(UUID(…)).
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def uid_time(uid: str) -> dt.datetime | None:
    """The moment at which a version 7 uid (RFC 9562, 5.7) was made, by the clock of its maker; None for any other."""
    try:
        parsed = uuid.UUID(uid)
    except ValueError:
        return None
    return from_milliseconds(parsed.int >> 80) if parsed.version == 7 else None
