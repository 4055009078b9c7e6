"""Checks the invariant: every item is in exactly one place, and every uid in a place is that of an item.

Checks also that the items that are retrying are delayed, and the counts of their groups; and that each result has a
time at which it is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from django_srq import operations
from django_srq.operations import Call, Command, Keys
from django_srq.operations.scripts import UNIQUES_MOST
from django_srq.queue.places import LISTS, fault_of
from django_srq.transport.link import Link
from django_srq.transport.sansio import Steps

COUNT = 500  # uids in a call
_HASHES = ("items", "holders", "retrying", "deliveries", "crashes", "errors", "headers", "waiting", "results")
_ZSETS = ("returned", "priority", "delayed", "leases", "dead", "finished")


def audit(link: Link, keys: Keys, alias: str) -> Steps[list[str]]:
    """A sentence for each finding.

    Reads in batches while the queue is in use, so that an item may move between two reads. Items that look wrong are
    therefore read once more, with all their places at one moment.
    """
    listed: set[str] = set()
    for name in LISTS:
        listed |= yield from _list(link, keys[name], alias)
    uids = yield from _all_uids(link, keys, alias)
    suspects = set()
    for batch in _batches(uids | listed):
        found = yield from link.calling(operations.find(keys, batch), queue=alias)
        for uid, places in zip(batch, found, strict=True):
            if fault_of(places | ({"queue"} if uid in listed else set())):
                suspects.add(uid)
    findings = []
    for batch in _batches(sorted(suspects)):
        found = yield from link.calling(operations.find(keys, batch, deep=True), queue=alias)
        for uid, places in zip(batch, found, strict=True):
            if fault := fault_of(places):
                findings.append(f"{uid} {fault} ({', '.join(sorted(places)) or 'nowhere'})")
    kept = yield from link.calling(Command((b"ZCARD", keys["uniques"].encode()), int), queue=alias)
    if kept > UNIQUES_MOST:
        findings.append(f"{kept} uids are kept for unique_for, more than {UNIQUES_MOST}")
    wrong = yield from link.calling(operations.wrong_groups(keys), queue=alias)
    return findings + [_wrong_count(*group) for group in wrong]


def _wrong_count(name: str, counted: int, found: int) -> str:
    group = f"the group {name!r}" if name else "all groups together"
    return f"{counted} retrying items are counted in {group}, and there are {found}"


def _all_uids(link: Link, keys: Keys, alias: str) -> Steps[set[str]]:
    uids: set[str] = set()
    for name in _HASHES:
        uids |= yield from _scan(link, partial(operations.uids, keys, name, count=COUNT), alias)
    for name in _ZSETS:
        uids |= yield from _scan(link, partial(_zset, keys[name]), alias)
    return uids


def _zset(key: str, cursor: bytes) -> Command[tuple[bytes, list[str]]]:
    args = (b"ZSCAN", key.encode(), cursor, b"COUNT", b"%d" % COUNT)
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
        call = Command((b"LRANGE", key.encode(), b"%d" % start, b"%d" % (start + COUNT - 1)), lambda reply: reply)
        page = yield from link.calling(call, queue=alias)
        uids |= {uid.decode() for uid in page}
        if not page:
            return uids
        start += COUNT


def _batches(uids: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(uids)
    while batch := list(islice(iterator, COUNT)):
        yield batch
