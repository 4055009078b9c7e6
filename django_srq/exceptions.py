"""All errors, named by what went wrong.

SRQError
├── ConfigurationError      a setting or argument is wrong (also ImproperlyConfigured)
│   └── UnknownQueue        no queue of that alias
├── InvalidArgument         an argument of a call is wrong (also ValueError); nothing was sent
├── PayloadError            a payload cannot be serialised or read (also ValueError)
│   └── PayloadTooLarge     a payload is over the limit
├── QueueFull               max_length is reached; nothing was put (put_many: nothing of that batch)
├── DuplicateItem           the uid is in the queue already (put with strict=True, or the target of a move)
├── QueueUnavailable        not reached, or refused; nothing was changed (also redis-py's ConnectionError)
├── OutcomeUnknown          sent, but no reply within the time limit (also redis-py's ConnectionError)
└── LayoutError             the keys are of a newer layout version, or somebody else's

A handler raises RetryLater, Discard or Reject to say what becomes of its item; these are no errors.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.connection import ConnectionDoesNotExist
from redis.exceptions import ConnectionError as RedisConnectionError

from django_srq.values import DELAYS

SHOWN_MOST = 200  # characters of a value in a message


def shown(value: object) -> str:
    """A value for a message, cut when it is long. ``repr`` of some values raises, such as a number of 5,000 digits."""
    try:
        text = repr(value)
    except Exception:
        return f"this {type(value).__name__}"
    return text if len(text) <= SHOWN_MOST else f"{text[:SHOWN_MOST]}…"


class SRQError(Exception):
    """The base of all errors that this package raises. Their messages name the queue and the cause, never a password.

    An error of ``put_many`` has two lists of uids: ``put``, the items at the beginning that are in the queue, and
    ``in_doubt``, the items after these that may be in the queue (OutcomeUnknown only). For other calls both are empty.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.put: list[str] = []
        self.in_doubt: list[str] = []


class ConfigurationError(SRQError, ImproperlyConfigured):
    """A setting or a constructor argument is wrong; the message names it and says what to write."""


class UnknownQueue(ConfigurationError, ConnectionDoesNotExist):
    """No queue of that alias is configured; the message names those that are."""


class InvalidArgument(SRQError, ValueError):
    """An argument of a call is wrong; nothing was sent."""


class PayloadError(SRQError, ValueError):
    """A payload cannot be serialised, or what is stored cannot be read back."""


class PayloadTooLarge(PayloadError):
    """A serialised payload has more bytes than ``max_payload_bytes``."""


class QueueFull(SRQError):
    """``max_length`` is reached; nothing was put. After ``put_many``, ``put`` has the uids of the earlier batches."""


class DuplicateItem(SRQError):
    """A ``put`` with ``strict``, or a ``move``, met a uid that is in the queue already; nothing was put.

    ``uid`` is that uid, and ``state`` where its item is: ``ready``, ``in_flight``, ``delayed``, ``dead`` or ``done``.
    With ``done`` the item was handled or moved, and its uid still counts as there by ``unique_for``.
    """

    def __init__(self, message: str, *, uid: str = "", state: str = "") -> None:  # pickle passes the message only
        super().__init__(message)
        self.uid = uid
        self.state = state


class QueueUnavailable(SRQError, RedisConnectionError):
    """The server could not be reached, or refused the call; nothing was changed."""


class OutcomeUnknown(SRQError, RedisConnectionError):
    """The call was sent, and no reply came within the time limit: it was carried out once, or not at all.

    ``cut_short`` is True when a reply began, and could not be read to its end. A ``get`` that raises this has failed
    its item. ``advice`` is the end of the message, which tells the caller what to do.
    """

    cut_short = False
    advice = ""


class LayoutError(SRQError):
    """The keys have a layout that this version does not know, or a key belongs to another program."""


class RetryLater(Exception):
    """Raised by a handler: deliver the item again after ``delay`` seconds; counts as a failed delivery.

    When the deliveries are used up, the item is dead.

    :param delay: seconds, from 0 on.
    :param reason: logged, and stored with the item.
    """

    delay: float = 0  # seconds; for a subclass that does not set it

    def __init__(self, delay: float, reason: str = "") -> None:
        if delay not in DELAYS:
            raise InvalidArgument(f"RetryLater: delay is {DELAYS.name}, not {shown(delay)}")
        super().__init__(reason or f"again in {delay:.15g} s")
        self.delay = delay

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.delay, *self.args), vars(self)


class Discard(Exception):
    """Raised by a handler: the item is not worth handling. It is acked, and the reason logged.

    :param reason: logged.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)


class Reject(Exception):
    """Raised by a handler: no further delivery can help. The item is dead at once, kept with the reason.

    It counts as a failed delivery. ``fail`` with such an error does the same.

    :param reason: logged, and stored with the item.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
