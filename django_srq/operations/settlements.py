"""Settlements: how a delivery, or its lease, ends."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django_srq.operations.call import Call, Command, Keys
from django_srq.operations.encoding import encode_flag, encode_held, encode_int, encode_moment, milliseconds
from django_srq.operations.replies import CrashReply, DeliveryRef, as_text, read_flags, read_pair, read_states
from django_srq.operations.scripts import Script

# Items in one fail_many, at most: with the same error for all, and with an error for each. Some services take at most
# 3,999 arguments.
FAILED_ALIKE, FAILED = 990, 790
_DEAD_AT_ONCE = b"-1"  # as a delay: see fail.lua


class Failed(NamedTuple):
    """A delivery that failed: its error (JSON), and the seconds that the item waits before its next delivery.

    bury: whether the item is dead at once, so that there is no next delivery.
    """

    held: DeliveryRef
    error: bytes = b""
    delay: float = 0
    bury: bool = False


def ack(keys: Keys, held: Iterable[DeliveryRef], results: Sequence[bytes] = ()) -> Call[list[bool]]:
    """results: empty, or for each delivery the result to keep, from ``kept``; b"" for none."""
    return Call(Script.named("ack"), keys, encode_held(held, results), read_flags)


def fail(
    keys: Keys,
    held: DeliveryRef,
    *,
    error: bytes = b"",
    delay: float = 0,
    max_deliveries: int | None = None,
    bury: bool = False,
) -> Call[str | None]:
    call = fail_many(keys, [Failed(held, error, delay, bury)], max_deliveries=max_deliveries)
    return Call(call.script, keys, call.args, lambda reply: read_states(reply)[0])


def fail_many(keys: Keys, failed: Iterable[Failed], *, max_deliveries: int | None = None) -> Call[list[str | None]]:
    errors: dict[bytes, int] = {b"": 0}  # error -> its number; many items usually fail with the same error
    items: list[bytes] = []
    for failure in failed:
        number = errors.setdefault(failure.error, len(errors))
        items += (
            failure.held.uid.encode(),
            failure.held.token.encode(),
            _DEAD_AT_ONCE if failure.bury else encode_int(milliseconds(failure.delay)),
            encode_int(number),
        )
    args = [
        encode_int(max_deliveries or 0),
        encode_int(len(errors) - 1),
        *list(errors)[1:],
        *items,
    ]
    return Call(Script.named("fail"), keys, tuple(args), read_states)


def extend(
    keys: Keys,
    held: Iterable[DeliveryRef],
    *,
    lease: float,
    recover: bool = True,
    consumer: str = "",
    about: bytes = b"",
    claims: Iterable[bytes] = (),
) -> Call[list[bool]]:
    """Make leases last so many seconds from now. The other arguments are those of extend.lua; claims: ARGV[7]."""
    args = [encode_int(milliseconds(lease)), encode_flag(recover), consumer.encode(), about, b" ".join(claims)]
    for ref in held:
        args += (ref.uid.encode(), ref.token.encode())
    return Call(Script.named("extend"), keys, tuple(args), read_flags)


def release(keys: Keys, held: Iterable[DeliveryRef]) -> Call[list[bool]]:
    args = [part for ref in held for part in (ref.uid.encode(), ref.token.encode())]
    return Call(Script.named("release"), keys, tuple(args), read_flags)


def withdraw(keys: Keys, slot: bytes, number: int) -> Call[int | None]:
    """Give back the items that a claim took, as far as they are still held; how many. slot, number: those of the claim.

    None: the claim was not carried out yet, and may still take items.
    """

    def read(reply: Any) -> int | None:
        given = int(as_text(reply))
        return None if given < 0 else given

    return Call(Script.named("withdraw"), keys, (slot, encode_int(number)), read)


def crashed(
    keys: Keys,
    held: Sequence[DeliveryRef],
    *,
    evidence: bytes,
    how: str = "crash",
    slot: bytes = b"",
    max_deliveries: int | None = None,
    max_crashes: int | None = None,
) -> Call[CrashReply]:
    """Report the end of a consumer that held items. how, evidence, slot: see crashed.lua."""

    def read(reply: Any) -> CrashReply:
        states = as_text(reply).split()
        found = states[len(held) :]
        return CrashReply(
            [None if state == "-" else state for state in states[: len(held)]],
            dict(zip(found[::2], found[1::2], strict=True)),
        )

    args = [encode_int(max_deliveries or 0), encode_int(max_crashes or 0), how.encode(), evidence, slot]
    for ref in held:
        args += (ref.uid.encode(), ref.token.encode())
    return Call(Script.named("crashed"), keys, tuple(args), read)


def recover(
    keys: Keys,
    *,
    legacy_lease: float,
    recover: bool = True,
    max_deliveries: int | None = None,
    max_crashes: int | None = None,
) -> Call[tuple[int, int]]:
    args = (
        encode_int(max_deliveries or 0),
        encode_int(max_crashes or 0),
        encode_int(milliseconds(legacy_lease)),
        encode_flag(recover),
    )
    return Call(Script.named("recover"), keys, args, read_pair)


def ended(keys: Keys, at: dt.datetime) -> Command[int]:
    """How many leases have ended at a moment of the server's clock, also leases never recovered automatically."""
    moment = encode_moment(at)
    return Command((b"ZCOUNT", keys["leases"].encode(), b"-" + moment, moment), int)
