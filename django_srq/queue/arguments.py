"""Checks of arguments. Each function returns the argument, or raises an error that says which values are right."""

from __future__ import annotations

import datetime as dt
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from django_srq.exceptions import ConfigurationError, InvalidArgument, shown
from django_srq.queue.rate import Rate

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object] | None)

PRIORITIES = range(-100, 101)
HUGE = 10**300  # the scripts' numbers are 64-bit floats: beyond about 10**308 they are infinite
LONGEST_DELAY = 10**10  # seconds, some 300 years: far beyond that, a due time would be no date any more
_UID = re.compile(r"[!-~]{1,128}")


def name_of(name: T) -> T:
    """Text, or something that becomes text in the keys, such as a number: saferedisqueue took that too."""
    try:
        f"{name}".encode()
    except Exception:
        raise ConfigurationError(f"name is text, without lone surrogates, not {shown(name)}") from None
    return name


def positive(name: str, value: float | None) -> float | None:
    if value is None or _is_duration(value):
        return value
    raise ConfigurationError(f"{name} is a number of seconds above 0, or None; not {shown(value)}")


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LONGEST_DELAY


def lease_of(seconds: float, alias: str) -> float:
    if _is_duration(seconds):
        return seconds
    raise InvalidArgument(f"queue {alias!r}: seconds is a number above 0, not {shown(seconds)}")


def limit(name: str, value: int | None) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 < value < HUGE):
        return value
    raise ConfigurationError(f"{name} is a whole number above 0, or None for no limit; not {shown(value)}")


def rate(value: Rate | str | None) -> Rate | None:
    if value is None or isinstance(value, Rate):
        return value
    if not isinstance(value, str):
        raise ConfigurationError(f"rate: {shown(value)} is no rate such as '10/s', '100/m' or '3/10s'")
    try:
        return Rate.parse(value)
    except ValueError as error:
        raise ConfigurationError(f"rate: {error}") from None


def backoff(value: T) -> T:
    if callable(getattr(value, "delay", None)):
        return value
    raise ConfigurationError(f"backoff is a Backoff, not {shown(value)}")


def without_effect(given: str, args: Sequence[object], options: Iterable[str], **others: object) -> None:
    """Refuse arguments that have no effect beside the one named ``given``. others: arguments whose default is None."""
    named = [name for name, value in others.items() if value is not None]
    if names := [*(["positional arguments"] if args else []), *named, *options]:
        raise ConfigurationError(f"a queue with {given}= takes no {', '.join(names)}: it would have no effect")


def timeout_of(timeout: float, alias: str) -> float:
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if number and (-HUGE < timeout < HUGE or timeout in (math.inf, -math.inf)):
        return timeout
    raise InvalidArgument(
        f"queue {alias!r}: timeout is a number of seconds, 0 for ever, below 0 none; not {shown(timeout)}"
    )


def offset_of(offset: int, alias: str) -> int:
    if isinstance(offset, int) and not isinstance(offset, bool) and 0 <= offset < 2**53:
        return offset
    raise InvalidArgument(f"queue {alias!r}: offset is a whole number from 0 on, not {shown(offset)}")


def number_of(n: int, most: int, alias: str) -> int:
    if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= most:
        return n
    raise InvalidArgument(f"queue {alias!r}: n is a whole number from 1 to {most}, not {shown(n)}")


def listed(values: Iterable[T], name: str, alias: str) -> list[T]:
    if isinstance(values, Iterable):
        return list(values)
    raise InvalidArgument(f"queue {alias!r}: {name} are several, such as a list, not {shown(values)}")


def error_of(error: BaseException | str | None, alias: str) -> BaseException | str | None:
    if error is None or isinstance(error, BaseException | str):
        return error
    raise InvalidArgument(f"queue {alias!r}: error is an exception, text or None, not {shown(error)}")


def group_of(error: str | None, alias: str) -> str:
    """The error by which dead items are chosen; "" for all of them."""
    if error is None or isinstance(error, str):
        return error or ""
    raise InvalidArgument(f"queue {alias!r}: error is a group, a type or a name, as text, or None; not {shown(error)}")


def callback_of(on_batch: F, alias: str) -> F:
    if on_batch is None or callable(on_batch):
        return on_batch
    raise InvalidArgument(f"queue {alias!r}: on_batch is a function, or None; not {shown(on_batch)}")


def uid_of(uid: str, alias: str) -> str:
    if isinstance(uid, str) and _UID.fullmatch(uid):
        return uid
    raise InvalidArgument(f"queue {alias!r}: a uid is 1 to 128 visible ASCII characters, not {shown(uid)}")


def headers_of(headers: Mapping[str, str] | None, alias: str) -> Mapping[str, str] | None:
    if headers is None:
        return None
    if isinstance(headers, Mapping) and all(_is_text(part) for pair in headers.items() for part in pair):
        return headers
    raise InvalidArgument(f"queue {alias!r}: headers are a mapping of str to str, without lone surrogates")


def text_of(value: str, name: str, alias: str) -> str:
    if _is_text(value):
        return value
    raise InvalidArgument(f"queue {alias!r}: {name} is text, without lone surrogates, not {shown(value)}")


def _is_text(value: object) -> bool:
    """Whether it is text that can be encoded. Half of a surrogate pair cannot; text that was cut may end with one."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def aware(moment: dt.datetime | None, name: str, alias: str) -> None:
    if moment is not None and (not isinstance(moment, dt.datetime) or moment.utcoffset() is None):
        raise InvalidArgument(f"queue {alias!r}: {name} is an aware datetime (with a time zone), not {shown(moment)}")
    if moment is not None and moment.timestamp() - time.time() >= LONGEST_DELAY:
        most = f"less than {LONGEST_DELAY:,} seconds ahead"
        raise InvalidArgument(f"queue {alias!r}: {name} is {most} (some 300 years), not {moment}")


def seconds_of(name: str, value: float | dt.timedelta, alias: str) -> float:
    seconds = value.total_seconds() if isinstance(value, dt.timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < LONGEST_DELAY:
        raise InvalidArgument(
            f"queue {alias!r}: {name} is a number of seconds or a timedelta, from 0 on, not {shown(value)}"
        )
    return seconds


def due_of(delay: float | dt.timedelta, eta: dt.datetime | None, alias: str) -> float | dt.datetime:
    """The due time: in seconds from now, or as a datetime."""
    if delay == 0 and eta is None and type(delay) is int:
        return 0
    seconds = seconds_of("delay", delay, alias)
    aware(eta, "eta", alias)
    if eta is not None and seconds:
        raise InvalidArgument(f"queue {alias!r}: delay or eta, not both")
    return seconds if eta is None else eta


def priority_of(priority: int, alias: str) -> int:
    if isinstance(priority, int) and not isinstance(priority, bool) and priority in PRIORITIES:
        return priority
    raise InvalidArgument(f"queue {alias!r}: priority is a whole number from -100 to 100, not {shown(priority)}")


def most_of(limit: int | None, alias: str) -> float:
    """The limit, or infinity for none."""
    if limit is None:
        return math.inf
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
        return limit
    raise InvalidArgument(f"queue {alias!r}: limit is a whole number above 0, or None; not {shown(limit)}")
