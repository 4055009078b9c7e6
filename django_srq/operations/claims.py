"""Claiming items, and waiting for some."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from django_srq.operations.call import Call, Command, Keys
from django_srq.operations.encoding import encode_held, encode_int, milliseconds
from django_srq.operations.replies import ClaimReply, DeliveryRef, as_text, read_claim
from django_srq.operations.scripts import Script

GIVE_BACK, UNREAD = -1, -2  # in place of a claim's n: see claim.lua


def claim(
    keys: Keys,
    *,
    consumer: str,
    lease: float,
    legacy_lease: float,
    recover: bool = True,
    n: int = 1,
    max_deliveries: int | None = None,
    max_crashes: int | None = None,
    max_in_flight: int | None = None,
    interval: float = 0,
    limited: bool = True,
    acks: Iterable[DeliveryRef] = (),
) -> Call[ClaimReply]:
    """n: items at most, or GIVE_BACK or UNREAD.

    interval: milliseconds from one item to the next, where RATE limits them; 0: as fast as they are asked for.
    limited: False takes without regard to the limits, and leaves them as they are for others.
    """
    sign = 1 if recover else -1
    terms = _claim_terms(consumer, sign * lease, sign * legacy_lease, n, max_deliveries, max_crashes)
    limits = _limit_terms(max_in_flight, interval) if limited else (b"-1", b"0")
    unknown = "what it may have taken comes back when its lease ends"
    return Call(Script.named("claim"), keys, (*terms, *limits, *encode_held(acks)), read_claim, unknown)


@lru_cache(maxsize=256)
def _claim_terms(
    consumer: str, lease: float, legacy_lease: float, n: int, max_deliveries: int | None, max_crashes: int | None
) -> tuple[bytes, ...]:
    """What a consumer says in every claim, encoded once."""
    leases = (
        encode_int(-milliseconds(-seconds) if seconds < 0 else milliseconds(seconds))
        for seconds in (lease, legacy_lease)
    )
    return (consumer.encode(), *leases, encode_int(n), encode_int(max_deliveries or 0), encode_int(max_crashes or 0))


@lru_cache(maxsize=64)
def _limit_terms(max_in_flight: int | None, interval: float) -> tuple[bytes, bytes]:
    return encode_int(max_in_flight or 0), b"%.3f" % interval if interval else b"0"


def wait(queues: Iterable[Keys], seconds: float) -> Command[str]:
    """Block until a wake token arrives for one of the queues; its wake list, or "" after so many seconds."""
    lists = (keys["wake"].encode() for keys in queues)
    # A time-out of 0 would mean for ever.
    return Command((b"BLPOP", *lists, b"%.3f" % max(seconds, 0.001)), lambda reply: as_text(reply[0]) if reply else "")


def take_token(queues: Sequence[Keys]) -> Command[str]:
    """Take a wake token of the first of the queues that has one; its wake list, or "" when none has. Does not block."""
    lists = (keys["wake"].encode() for keys in queues)
    return Command(
        (b"LMPOP", encode_int(len(queues)), *lists, b"LEFT"), lambda reply: as_text(reply[0]) if reply else ""
    )


def ring(keys: Keys) -> Command[None]:
    """Put a wake token back that was meant for somebody who comes sooner."""
    return Command((b"RPUSH", keys["wake"].encode(), b"1"), lambda reply: None)
