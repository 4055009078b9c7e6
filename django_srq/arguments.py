"""Checks of what callers pass: each returns what was passed, or raises an error that says what fits."""

from __future__ import annotations

import datetime as dt
import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import TypeVar

from django_srq.exceptions import ConfigurationError, InvalidArgument
from django_srq.rate import Rate

T = TypeVar("T")

PRIORITIES = range(-100, 101)
LONGEST_DELAY = 10**10  # seconds; beyond it a due time would no longer be a moment of the calendar
_UID = re.compile(r"[!-~]{1,128}")


def positive(name: str, value: float | None) -> float | None:
    if value is None or _is_duration(value):
        return value
    raise ConfigurationError(f"{name} is a number of seconds above 0, or None; not {value!r}")


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LONGEST_DELAY


def lease_of(seconds: float, label: str) -> float:
    if _is_duration(seconds):
        return seconds
    raise InvalidArgument(f"queue {label!r}: seconds is a number above 0, not {seconds!r}")


def limit(name: str, value: int | None) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ConfigurationError(f"{name} is a whole number above 0, or None for no limit; not {value!r}")


def rate(value: Rate | str | None) -> Rate | None:
    if value is None or isinstance(value, Rate):
        return value
    try:
        return Rate.parse(str(value))
    except ValueError as error:
        raise ConfigurationError(f"rate: {error}") from None


def timeout_of(timeout: float, label: str) -> float:
    if isinstance(timeout, int | float) and not isinstance(timeout, bool) and not math.isnan(timeout):
        return timeout
    raise InvalidArgument(f"queue {label!r}: timeout is a number of seconds, 0 for ever, below 0 none; not {timeout!r}")


def number_of(n: int, most: int, label: str) -> int:
    if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= most:
        return n
    raise InvalidArgument(f"queue {label!r}: n is a whole number from 1 to {most}, not {n!r}")


def listed(values: Iterable[T], name: str, label: str) -> list[T]:
    if isinstance(values, Iterable):
        return list(values)
    raise InvalidArgument(f"queue {label!r}: {name} are several, such as a list, not {values!r}")


def error_of(error: BaseException | str | None, label: str) -> BaseException | str | None:
    if error is None or isinstance(error, BaseException | str):
        return error
    raise InvalidArgument(f"queue {label!r}: error is an exception, text or None, not {error!r}")


def uid_of(uid: str, label: str) -> str:
    if isinstance(uid, str) and _UID.fullmatch(uid):
        return uid
    raise InvalidArgument(f"queue {label!r}: a uid is 1 to 128 visible ASCII characters, not {uid!r}")


def headers_of(headers: Mapping[str, str] | None, label: str) -> Mapping[str, str] | None:
    if headers is None:
        return None
    if isinstance(headers, Mapping) and all(_is_text(part) for pair in headers.items() for part in pair):
        return headers
    raise InvalidArgument(f"queue {label!r}: headers are a mapping of str to str, without lone surrogates")


def text_of(value: str, name: str, label: str) -> str:
    if _is_text(value):
        return value
    raise InvalidArgument(f"queue {label!r}: {name} is text, without lone surrogates, not {value!r}")


def _is_text(value: object) -> bool:
    """Whether it can be encoded: half of a surrogate pair, as a cut or undecoded text has, cannot."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def aware(moment: dt.datetime | None, name: str, label: str) -> None:
    if moment is not None and (not isinstance(moment, dt.datetime) or moment.utcoffset() is None):
        raise InvalidArgument(f"queue {label!r}: {name} is an aware datetime (with a time zone), not {moment!r}")
    if moment is not None and moment.timestamp() - time.time() >= LONGEST_DELAY:
        most = f"less than {LONGEST_DELAY:,} seconds ahead"
        raise InvalidArgument(f"queue {label!r}: {name} is {most} (some 300 years), not {moment}")


def seconds_of(name: str, value: float | dt.timedelta, label: str) -> float:
    seconds = value.total_seconds() if isinstance(value, dt.timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < LONGEST_DELAY:
        raise InvalidArgument(
            f"queue {label!r}: {name} is a number of seconds or a timedelta, from 0 on, not {value!r}"
        )
    return seconds


def due_of(delay: float | dt.timedelta, eta: dt.datetime | None, label: str) -> float | dt.datetime:
    """Seconds from now, or the moment."""
    if delay == 0 and eta is None and type(delay) is int:
        return 0
    seconds = seconds_of("delay", delay, label)
    aware(eta, "eta", label)
    if eta is not None and seconds:
        raise InvalidArgument(f"queue {label!r}: delay or eta, not both")
    return seconds if eta is None else eta


def priority_of(priority: int, label: str) -> int:
    if isinstance(priority, int) and not isinstance(priority, bool) and priority in PRIORITIES:
        return priority
    raise InvalidArgument(f"queue {label!r}: priority is a whole number from -100 to 100, not {priority!r}")


def most_of(limit: int | None, label: str) -> float:
    """The limit, or infinity for none."""
    if limit is None:
        return math.inf
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
        return limit
    raise InvalidArgument(f"queue {label!r}: limit is a whole number above 0, or None; not {limit!r}")
