"""Checks of what callers pass: each returns what was passed, or raises an error that says what fits."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping

from django_srq.exceptions import ConfigurationError, InvalidArgument

PRIORITIES = range(-100, 101)
LONGEST_DELAY = 10**10  # seconds; beyond it a due time would no longer be a moment of the calendar
_UID = re.compile(r"[!-~]{1,128}")


def positive(name: str, value: float | None) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
        return value
    raise ConfigurationError(f"{name} is a number of seconds above 0, or None; not {value!r}")


def limit(name: str, value: int | None) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ConfigurationError(f"{name} is a whole number above 0, or None for no limit; not {value!r}")


def uid_of(uid: str, label: str) -> str:
    if isinstance(uid, str) and _UID.fullmatch(uid):
        return uid
    raise InvalidArgument(f"queue {label!r}: a uid is 1 to 128 visible ASCII characters, not {uid!r}")


def headers_of(headers: Mapping[str, str] | None, label: str) -> Mapping[str, str] | None:
    if headers is None:
        return None
    if isinstance(headers, Mapping) and all(isinstance(part, str) for pair in headers.items() for part in pair):
        return headers
    raise InvalidArgument(f"queue {label!r}: headers are a mapping of str to str")


def aware(moment: dt.datetime | None, name: str, label: str) -> None:
    if moment is not None and (not isinstance(moment, dt.datetime) or moment.utcoffset() is None):
        raise InvalidArgument(f"queue {label!r}: {name} is an aware datetime (with a time zone), not {moment!r}")


def due_of(delay: float | dt.timedelta, eta: dt.datetime | None, label: str) -> float | dt.datetime:
    """Seconds from now, or the moment."""
    if delay == 0 and eta is None and type(delay) is int:
        return 0
    seconds = delay.total_seconds() if isinstance(delay, dt.timedelta) else delay
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < LONGEST_DELAY:
        raise InvalidArgument(f"queue {label!r}: delay is a number of seconds or a timedelta, from 0 on, not {delay!r}")
    aware(eta, "eta", label)
    if eta is not None and seconds:
        raise InvalidArgument(f"queue {label!r}: delay or eta, not both")
    return seconds if eta is None else eta


def priority_of(priority: int, label: str) -> int:
    if isinstance(priority, int) and priority in PRIORITIES:
        return priority
    raise InvalidArgument(f"queue {label!r}: priority is a whole number from -100 to 100, not {priority!r}")
