"""Checks the invariant: every item is in exactly one place, and whatever is in a place is an item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from django_srq import operations
from django_srq.connections import Link
from django_srq.operations import Command, Keys

BATCH = 500
_LISTS = ("queue", "ackbuf", "backup")
_PLACES = {"returned", "priority", "delayed", "holders", "dead", "ackbuf_aging", *_LISTS}
_RECORDS = {"deliveries", "crashes", "errors", "headers", "leases"}


def audit(link: Link, keys: Keys, label: str) -> list[str]:
    """A sentence per finding. Reads in batches while the queue goes on, and looks again, at one moment, at suspects."""
    listed = {uid for name in _LISTS for uid in _list(link, keys[name], label)}
    suspects = set()
    for batch in _batches(_all_uids(link, keys, label, listed)):
        found = link.call(operations.find(keys, batch), queue=label)
        for uid, places in zip(batch, found, strict=True):
            if _verdict(places | ({"queue"} if uid in listed else set())):
                suspects.add(uid)
    findings = []
    for batch in _batches(sorted(suspects)):
        found = link.call(operations.find(keys, batch, deep=True), queue=label)
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


def _all_uids(link: Link, keys: Keys, label: str, listed: set[str]) -> Iterator[str]:
    seen = set(listed)
    yield from listed
    hashes = ("items", "holders", "deliveries", "crashes", "errors", "headers")
    zsets = ("returned", "priority", "delayed", "leases", "dead")
    for name in (*hashes, *zsets):
        scan = b"HSCAN" if name in hashes else b"ZSCAN"
        for uid in _scan(link, scan, keys[name], label):
            if uid not in seen:
                seen.add(uid)
                yield uid


def _scan(link: Link, command: bytes, key: str, label: str) -> Iterator[str]:
    cursor = b"0"
    while True:
        call = Command((command, key.encode(), cursor, b"COUNT", b"%d" % BATCH), lambda reply: reply)
        cursor, flat = link.call(call, queue=label)
        yield from (uid.decode() for uid in flat[::2])
        if cursor == b"0":
            return


def _list(link: Link, key: str, label: str) -> Iterator[str]:
    start = 0
    while True:
        call = Command((b"LRANGE", key.encode(), b"%d" % start, b"%d" % (start + BATCH - 1)), lambda reply: reply)
        page = link.call(call, queue=label)
        yield from (uid.decode() for uid in page)
        if not page:
            return
        start += BATCH


def _batches(uids: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(uids)
    while batch := list(islice(iterator, BATCH)):
        yield batch
