"""Claims: taking items, and waiting until there are some."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from django_srq.operations.call import Call, Command, Keys
from django_srq.operations.encoding import encode_flag, encode_held, encode_int, milliseconds
from django_srq.operations.replies import ClaimReply, DeliveryRef, as_text, read_claim
from django_srq.operations.scripts import Script

GIVE_BACK, UNREAD = -1, -2  # as n of a claim that is repeated: see claim.lua, ARGV[7]


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
    results: Sequence[bytes] = (),
) -> Call[ClaimReply]:
    """Take n items at most (or GIVE_BACK or UNREAD), and ack others in the same call.

    lease, legacy_lease: seconds; recover: False if these leases are never to be recovered automatically. interval:
    milliseconds from one item to the next, where RATE limits them; 0: no such limit. limited: False disregards
    max_in_flight and interval, and leaves the limits of other claims as they are. results: of the acks, as in ``ack``.
    """
    terms = _claim_terms(consumer, lease, legacy_lease, recover, n, max_deliveries, max_crashes)
    limits = _limit_terms(max_in_flight, interval) if limited else (b"-1", b"0")
    unknown = "what it may have taken comes back when its lease ends"
    return Call(Script.named("claim"), keys, (*terms, *limits, *encode_held(acks, results)), read_claim, unknown)


@lru_cache(maxsize=256)
def _claim_terms(
    consumer: str,
    lease: float,
    legacy_lease: float,
    recover: bool,
    n: int,
    max_deliveries: int | None,
    max_crashes: int | None,
) -> tuple[bytes, ...]:
    """The arguments that a consumer sends with every claim, encoded once."""
    leases = encode_int(milliseconds(lease)), encode_int(milliseconds(legacy_lease)), encode_flag(recover)
    return (consumer.encode(), *leases, encode_int(n), encode_int(max_deliveries or 0), encode_int(max_crashes or 0))


@lru_cache(maxsize=64)
def _limit_terms(max_in_flight: int | None, interval: float) -> tuple[bytes, bytes]:
    return encode_int(max_in_flight or 0), b"%.3f" % interval if interval else b"0"


def wait(queues: Iterable[Keys], seconds: float) -> Command[str]:
    """Block until one of the queues has a wake token, and take it; its wake list's key, or "" after the seconds."""
    lists = (keys["wake"].encode() for keys in queues)
    # To BLPOP, a timeout of 0 means for ever.
    return Command((b"BLPOP", *lists, b"%.3f" % max(seconds, 0.001)), lambda reply: as_text(reply[0]) if reply else "")


def take_token(queues: Sequence[Keys]) -> Command[str]:
    """Take a wake token from the first queue that has one; the key of its wake list, or "". Does not block."""
    lists = (keys["wake"].encode() for keys in queues)
    return Command(
        (b"LMPOP", encode_int(len(queues)), *lists, b"LEFT"), lambda reply: as_text(reply[0]) if reply else ""
    )


def ring(keys: Keys) -> Command[None]:
    """Push a wake token, in place of a token whose taker does not claim after all."""
    return Command((b"RPUSH", keys["wake"].encode(), b"1"), lambda reply: None)
