"""Checks the invariant: every item is in exactly one place, and every uid in a place is that of an item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from django_srq import operations
from django_srq.operations import Call, Command, Keys
from django_srq.transport.link import Link
from django_srq.transport.sansio import Steps

BATCH = 500
_LISTS = ("queue", "ackbuf", "backup")
_PLACES = {"returned", "priority", "delayed", "holders", "dead", "ackbuf_aging", *_LISTS}
_RECORDS = {"deliveries", "crashes", "errors", "headers", "leases"}
_HASHES = ("items", "holders", "deliveries", "crashes", "errors", "headers")
_ZSETS = ("returned", "priority", "delayed", "leases", "dead")


def audit(link: Link, keys: Keys, alias: str) -> Steps[list[str]]:
    """A sentence for each finding.

    Reads in batches while the queue is in use, so that an item may move between two reads. Items that look wrong are
    therefore read once more, with all their places at one moment.
    """
    listed: set[str] = set()
    for name in _LISTS:
        listed |= yield from _list(link, keys[name], alias)
    uids = yield from _all_uids(link, keys, alias)
    suspects = set()
    for batch in _batches(uids | listed):
        found = yield from link.calling(operations.find(keys, batch), queue=alias)
        for uid, places in zip(batch, found, strict=True):
            if _verdict(places | ({"queue"} if uid in listed else set())):
                suspects.add(uid)
    findings = []
    for batch in _batches(sorted(suspects)):
        found = yield from link.calling(operations.find(keys, batch, deep=True), queue=alias)
        for uid, places in zip(batch, found, strict=True):
            if verdict := _verdict(places):
                findings.append(f"{uid} {verdict} ({', '.join(sorted(places)) or 'nowhere'})")
    return findings


def _verdict(places: set[str]) -> str:
    """What is wrong with an item that is in these places; empty when nothing is."""
    states = places & _PLACES
    if "items" not in places:
        # A ghost: a uid on a list that claims drop on contact.
        return "" if not places or states <= set(_LISTS) else "is no item but has a place"
    if len(states) == 0:
        return "is in no place"
    if len(states - {"queue"}) > 1:
        return "is in several places"
    if "holders" in states and "leases" not in places:
        return "is held without a lease"
    if "leases" in places and "holders" not in states:
        return "has a lease and no holder"
    return ""


def _all_uids(link: Link, keys: Keys, alias: str) -> Steps[set[str]]:
    uids: set[str] = set()
    for name in _HASHES:
        uids |= yield from _scan(link, partial(operations.uids, keys, name, count=BATCH), alias)
    for name in _ZSETS:
        uids |= yield from _scan(link, partial(_zset, keys[name]), alias)
    return uids


def _zset(key: str, cursor: bytes) -> Command[tuple[bytes, list[str]]]:
    args = (b"ZSCAN", key.encode(), cursor, b"COUNT", b"%d" % BATCH)
    return Command(args, lambda reply: (reply[0], [uid.decode() for uid in reply[1][::2]]))


def _scan(link: Link, look: Callable[..., Call[Any] | Command[Any]], alias: str) -> Steps[set[str]]:
    uids: set[str] = set()
    cursor = b"0"
    while True:
        cursor, found = yield from link.calling(look(cursor=cursor), queue=alias)
        uids |= set(found)
        if cursor == b"0":
            return uids


def _list(link: Link, key: str, alias: str) -> Steps[set[str]]:
    uids: set[str] = set()
    start = 0
    while True:
        call = Command((b"LRANGE", key.encode(), b"%d" % start, b"%d" % (start + BATCH - 1)), lambda reply: reply)
        page = yield from link.calling(call, queue=alias)
        uids |= {uid.decode() for uid in page}
        if not page:
            return uids
        start += BATCH


def _batches(uids: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(uids)
    while batch := list(islice(iterator, BATCH)):
        yield batch
