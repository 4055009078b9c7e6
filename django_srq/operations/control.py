"""Control: pausing a queue, deleting items, registering consumers."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import Any

from django_srq.operations.call import BATCH, Call, Command, Keys
from django_srq.operations.encoding import encode_int, encode_moment
from django_srq.operations.replies import DeliveryRef, as_text, read_flag, read_flags, read_pair
from django_srq.operations.scripts import Script


def drop(keys: Keys, items: Iterable[DeliveryRef], *, state: str = "", purges: bool = False) -> Call[list[bool]]:
    """Delete items that nobody holds. They are named by uid, and by the number of the put where it is known.

    state: only items in this state; "done": no items, but results, and uids that count as there by unique_for may be
    put again. purges: count the items as purged, not as dropped.
    """
    args = [part.encode() for item in items for part in (item.uid, item.number)]
    return Call(Script.named("drop"), keys, (state.encode(), b"purged" if purges else b"dropped", *args), read_flags)


def cancel(keys: Keys, uid: str, kept: bytes = b"") -> Call[bool]:
    """Delete an item that is ready or delayed, and keep a result of it, from ``kept``; b"" for none."""
    return Call(Script.named("cancel"), keys, (uid.encode(), kept), read_flag)


def purge(keys: Keys, *, marker: str, start: bool) -> Call[tuple[bool, int]]:
    def read(reply: Any) -> tuple[bool, int]:
        more, gone = as_text(reply).split()
        return more == "more", int(gone)

    args = (marker.encode(), encode_int(BATCH), b"1" if start else b"0")
    return Call(Script.named("purge"), keys, args, read)


def purge_results(keys: Keys, *, most: int = BATCH) -> Call[tuple[int, int]]:
    """Delete so many results at most, the oldest first: how many are gone, and how many are left."""
    return Call(Script.named("purge_results"), keys, (encode_int(most),), read_pair)


def pause(keys: Keys, *, about: Mapping[str, str], until: dt.datetime | None = None) -> Call[bool]:
    args = (json.dumps(dict(about), ensure_ascii=False).encode(), encode_moment(until) if until else b"0")
    return Call(Script.named("pause"), keys, args, read_flag)


def resume(keys: Keys) -> Call[bool]:
    return Call(Script.named("resume"), keys, (), read_flag)


def register(keys: Keys, consumer: str, about: bytes) -> Call[int]:
    return Call(Script.named("register"), keys, (consumer.encode(), about), lambda reply: int(as_text(reply)))


def forget_slots(keys: Keys, names: Iterable[bytes]) -> Command[int]:
    """Delete slots whose calls nobody will repeat; how many there were. Housekeeping trims others after an hour."""
    return Command((b"HDEL", keys["slots"].encode(), *names), int)
