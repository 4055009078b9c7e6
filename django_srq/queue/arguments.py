"""Checks of arguments. Each function returns the argument, or raises an error that says which values are right.

Their own arguments are the value, its name where that varies, and the alias of the queue.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from django_srq.exceptions import ConfigurationError, InvalidArgument, shown
from django_srq.notation import RATE
from django_srq.operations import BATCH, DeliveryRef
from django_srq.queue.item import Item
from django_srq.queue.rate import Rate
from django_srq.queue.serializers import BY_NAME, Serializer
from django_srq.values import (
    BYTES,
    COUNTS,
    COUNTS_FROM_0,
    DELAYS,
    HUGE,
    LONGEST_DELAY,
    PRIORITIES,
    SECONDS,
    Numbers,
    is_uid,
    whole_numbers,
)

T = TypeVar("T")
N = TypeVar("N", int, float)
F = TypeVar("F", bound=Callable[..., object] | None)

BATCH_SIZES = whole_numbers(1, BATCH)
# The options that the constructor shares with the settings, and their values besides None.
OPTIONS: dict[str, Numbers[Any]] = {
    "autoclean_interval": SECONDS,
    "max_deliveries": COUNTS,
    "max_crashes": COUNTS,
    "max_length": COUNTS,
    "max_payload_bytes": BYTES,
    "max_in_flight": COUNTS,
    "timeout": SECONDS,
    "put_timeout": SECONDS,
    "unique_for": SECONDS,
}


def name_of(name: T) -> T:
    """Text, or something that becomes text in the keys, such as a number: saferedisqueue took that too."""
    try:
        f"{name}".encode()
    except Exception:
        raise ConfigurationError(f"name is text, without lone surrogates, not {shown(name)}") from None
    return name


def option_of(value: N | str | None, name: str) -> N | None:
    """The value of one of the OPTIONS."""
    try:
        return None if value is None else OPTIONS[name].read(value)
    except ValueError:
        raise ConfigurationError(f"{name} is {OPTIONS[name].described}, or None; not {shown(value)}") from None


def rate_of(value: Rate | str | None) -> Rate | None:
    if value is None or isinstance(value, Rate):
        return value
    if not isinstance(value, str):
        raise ConfigurationError(f"rate: {shown(value)} is no {RATE}")
    try:
        return Rate.parse(value)
    except ValueError as error:
        raise ConfigurationError(f"rate: {error}") from None


def backoff_of(value: T) -> T:
    if callable(getattr(value, "delay", None)):
        return value
    raise ConfigurationError(f"backoff is a Backoff, not {shown(value)}")


def serializer_of(value: Serializer | str | None) -> Serializer | None:
    """The serializer, made when it is given by its name; None: that of the default, which depends on the client."""
    if value is None or value == "raw":
        return None
    if isinstance(value, str) and value in BY_NAME:
        return BY_NAME[value]()
    if not isinstance(value, str) and all(callable(getattr(value, name, None)) for name in ("dumps", "loads")):
        return value
    named = ", ".join(map(repr, BY_NAME))
    raise ConfigurationError(f"serializer is an object with dumps and loads, or one of {named}; not {shown(value)}")


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


def put_timeout_of(timeout: float | None, alias: str) -> float | None:
    """The time limit of a put; None: that of the queue."""
    if timeout is None or timeout in SECONDS:
        return timeout
    raise InvalidArgument(f"queue {alias!r}: timeout is {SECONDS.name}, or None; not {shown(timeout)}")


def lease_of(seconds: float, alias: str) -> float:
    if seconds in SECONDS:
        return seconds
    raise InvalidArgument(f"queue {alias!r}: seconds is a number above 0, not {shown(seconds)}")


def offset_of(offset: int, alias: str) -> int:
    if offset in COUNTS_FROM_0 and offset < 2**53:
        return offset
    raise InvalidArgument(f"queue {alias!r}: offset is {COUNTS_FROM_0.name}, not {shown(offset)}")


def number_of(n: int, alias: str) -> int:
    if n in BATCH_SIZES:
        return n
    raise InvalidArgument(f"queue {alias!r}: n is {BATCH_SIZES.name}, not {shown(n)}")


def list_of(values: Iterable[T], name: str, alias: str) -> list[T]:
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
    if is_uid(uid):
        return uid
    raise InvalidArgument(f"queue {alias!r}: a uid is 1 to 128 visible ASCII characters, not {shown(uid)}")


def uids_of(uids: Iterable[str], alias: str) -> list[str]:
    return [uid_of(uid, alias) for uid in uids]


def ref_of(item: Item | str, alias: str) -> DeliveryRef:
    """The delivery that an item names; of a plain uid, any delivery."""
    if isinstance(item, Item) and item.uid is not None:
        return DeliveryRef(item.uid, item.delivery.token, item.delivery.number)
    if isinstance(item, bytes):
        item = item.decode("ascii", "replace")
    if isinstance(item, str) and not isinstance(item, Item):
        return DeliveryRef(uid_of(item, alias))
    raise InvalidArgument(f"queue {alias!r}: an Item that get returned or a uid is needed, not {shown(item)}")


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


def moment_of(
    moment: dt.datetime | None, name: str, alias: str, *, zone: dt.tzinfo | None = None
) -> dt.datetime | None:
    """zone: of a naive datetime; None: it is refused. An hour that the clock repeats is its first pass, or by fold."""
    if zone is not None and isinstance(moment, dt.datetime) and moment.utcoffset() is None:
        moment = moment.replace(tzinfo=zone)
    if moment is not None and (not isinstance(moment, dt.datetime) or moment.utcoffset() is None):
        raise InvalidArgument(f"queue {alias!r}: {name} is an aware datetime (with a time zone), not {shown(moment)}")
    if moment is not None and moment.timestamp() - time.time() >= LONGEST_DELAY:
        most = f"less than {LONGEST_DELAY:,} seconds ahead"
        raise InvalidArgument(f"queue {alias!r}: {name} is {most} (some 300 years), not {moment}")
    return moment


def seconds_of(value: float | dt.timedelta, name: str, alias: str) -> float:
    seconds = value.total_seconds() if isinstance(value, dt.timedelta) else value
    if seconds in DELAYS:
        return seconds
    raise InvalidArgument(
        f"queue {alias!r}: {name} is a number of seconds or a timedelta, from 0 on, not {shown(value)}"
    )


def unique_for_of(value: float | dt.timedelta | None, own: bool, default: float | None, alias: str) -> float:
    """The seconds for which the uids of a put count as there after their acks; 0: not at all.

    own: whether the caller chose the uids. default: that of the queue.
    """
    if value is None:
        return (default or 0) if own else 0
    seconds = seconds_of(value, "unique_for", alias)
    if seconds and not own:
        raise InvalidArgument(f"queue {alias!r}: unique_for needs a uid of your own: a generated uid is put only once")
    return seconds


def due_of(
    delay: float | dt.timedelta, eta: dt.datetime | None, alias: str, *, zone: dt.tzinfo | None = None
) -> float | dt.datetime:
    """The due time: in seconds from now, or as a datetime. zone: see ``moment_of``."""
    if delay == 0 and eta is None and type(delay) is int:
        return 0
    seconds = seconds_of(delay, "delay", alias)
    eta = moment_of(eta, "eta", alias, zone=zone)
    if eta is not None and seconds:
        raise InvalidArgument(f"queue {alias!r}: delay or eta, not both")
    return seconds if eta is None else eta


def priority_of(priority: int, alias: str) -> int:
    if priority in PRIORITIES:
        return priority
    raise InvalidArgument(f"queue {alias!r}: priority is {PRIORITIES.name}, not {shown(priority)}")


def limit_of(limit: int | None, alias: str) -> float:
    """The limit, or infinity for none."""
    if limit is None:
        return math.inf
    if limit in COUNTS:
        return limit
    raise InvalidArgument(f"queue {alias!r}: limit is {COUNTS.name}, or None; not {shown(limit)}")
