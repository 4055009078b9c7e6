"""Replies: the results of the scripts, and how they are read."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from django_srq.operations.delivery import Delivery
from django_srq.operations.identifiers import from_milliseconds, uid_time

STATES = ("ready", "in_flight", "delayed", "dead")
_JSON = json.JSONDecoder()
_TIMED = ("in_flight", "delayed", "dead")  # states in which an item's score is a moment


class DeliveryRef(NamedTuple):
    """Names a delivery in ack, fail, extend and release, by its token. An empty token matches any holder."""

    uid: str
    token: str = ""
    number: str = ""


class PutReply(NamedTuple):
    states: Sequence[str]  # per item: "" when it was added, else the state of the item that has this uid, or "done"
    full_at: int | None  # the length of the queue, when nothing was added because it is full


class StoredItem(NamedTuple):
    """An item with its payload as bytes, as it is stored."""

    uid: str
    payload: bytes
    delivery: Delivery

    @property
    def ref(self) -> DeliveryRef:
        """For calls about this delivery."""
        return DeliveryRef(self.uid, self.delivery.token, self.delivery.number)


class ClaimReply(NamedTuple):
    acked: Sequence[bool]
    wait: float | None  # seconds until it is worth asking again; 0: ask again at once; None: no known moment
    held_up: int  # ready items that only the limits hold up
    found: Sequence[StoredItem]


@dataclass(frozen=True)
class CrashReply:
    states: Sequence[str | None]  # per item: the state to which it went; None: that delivery was over
    found: Mapping[str, str]  # other items that the last claim took: uid -> the state to which it went


@dataclass(frozen=True)
class ItemView:
    """An item as people look at it, without taking it."""

    uid: str
    payload: bytes  # if it is larger than asked for: empty (on a page), or its beginning (of a single item)
    size: int  # bytes of the whole payload
    delivery: Delivery
    holder: DeliveryRef | None = None  # the delivery that holds the item
    consumer: str = ""
    claimed_at: dt.datetime | None = None
    position: int | None = None  # in the order of its state, from 0 on
    score: str = ""  # its place in that order, as it is stored

    @property
    def error(self) -> Mapping[str, Any] | None:
        return self.delivery.error

    @property
    def errors(self) -> Sequence[Mapping[str, Any]]:
        return self.delivery.errors


@dataclass(frozen=True)
class ItemPage:
    at: dt.datetime
    total: int  # uids in that state
    first: int  # position of the first uid that was looked at
    looked: int  # how many uids were looked at
    anchor: str  # of the next page; empty at the end
    items: Sequence[ItemView]

    @property
    def following(self) -> int | None:
        """The position of the next page; None at the end."""
        return self.first + self.looked if self.anchor else None


@dataclass(frozen=True)
class TaskView:
    """An item, or what is kept of it after its ack."""

    uid: str
    state: str  # one of STATES, or "done"
    payload: bytes | None
    token: str  # of the delivery that holds the item, or that was the last one; empty for none
    deliveries: int  # a running one included
    crashes: int  # deliveries that ended with the death of the consumer; of one that is done, not known: 0
    headers: Mapping[str, Any]  # number and time of the put, due time, priority, the caller's headers, as stored
    errors: Sequence[Mapping[str, Any]]  # of the deliveries that had one, newest first
    at: dt.datetime | None  # due time of a delayed item, death of a dead one, end of one that is done
    result: Mapping[str, Any] | None = None  # as stored, of one that is done


@dataclass(frozen=True)
class FinishedPage:
    total: int  # of all results that are kept, also of some whose time is over
    items: Sequence[TaskView]
    before: float | None  # of the next page; None at the end


@dataclass(frozen=True)
class ErrorGroup:
    """The dead items, or those that are retrying, with the same error."""

    name: str
    count: int
    first: dt.datetime
    last: dt.datetime
    example: str  # uid of one of them; empty when none is known
    error: Mapping[str, Any] | None  # of the example


class FailingGroup(NamedTuple):
    """The items with the same error, of which some failed lately."""

    name: str
    retrying: int
    dead: int


@dataclass(frozen=True)
class Counts:
    """The numbers of a queue, at one moment of the server's clock."""

    at: dt.datetime
    ready: int
    in_flight: int
    delayed: int
    dead: int
    ended: int  # in flight, with an ended lease that is never recovered automatically
    due: int  # delayed and due, or in flight with an ended lease: the next claims make them ready
    layout: int | None  # None: the queue was never used
    paused: Mapping[str, Any] | None
    oldest: dt.datetime | None  # since when the next ready item waits (its put, or its due time), where that is known
    stats: Mapping[str, int] = field(default_factory=dict)  # counters that only grow
    buckets: Mapping[str, int] = field(default_factory=dict)  # wait<e> and run<e>, see lua/shared/series.lua
    sums: Mapping[str, int] = field(default_factory=dict)  # of these times (ms): wait_ms, run_ms
    minutes: Sequence[str] = ()  # periods of the time series, as lua/shared/series.lua describes them
    hours: Sequence[str] = ()
    consumers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    retrying: int = 0  # delayed after an error; the other delayed items are scheduled
    failing: Sequence[FailingGroup] = ()  # the largest groups of errors that took an item lately
    failing_rest: int = 0  # dead items of the other ones
    results: int = 0  # what is kept of items after their acks, also some whose time is over


def as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def read_flag(reply: Any) -> bool:
    return as_text(reply) == "1"


def read_flags(reply: bytes) -> list[bool]:
    return [flag == 49 for flag in reply]  # b"1"


def read_states(reply: Any) -> list[str | None]:
    return [None if state == "-" else state for state in as_text(reply).split()]


def read_pair(reply: Any) -> tuple[int, int]:
    made, looked = as_text(reply).split()
    return int(made), int(looked)


def read_swept(reply: Any) -> tuple[int, str]:
    number, _, cursor = as_text(reply).partition(" ")
    return int(number), cursor


_ADDED = PutReply(("",), None)


def read_put(reply: Any) -> PutReply:
    if reply == b"added 1":
        return _ADDED  # the common case
    verdict, *states = as_text(reply).split()
    if verdict == "full":
        return PutReply((), int(states[0]))
    if verdict == "there":
        return PutReply(states[:1], None)
    return PutReply(["" if state == "1" else state for state in states], None)


def read_claim(reply: Any) -> ClaimReply:
    flags, wait, held_up, *rest = reply
    milliseconds_ = int(wait)
    found = []
    parts = iter(rest)
    for uid, token, payload, deliveries, headers in zip(parts, parts, parts, parts, parts, strict=True):
        crashes = 0
        if type(deliveries) is bytes:
            deliveries, crashes = map(int, deliveries.split())
        delivery = _delivery(headers, token.decode(), deliveries, crashes=crashes)
        found.append(StoredItem(uid.decode(), payload, delivery))
    return ClaimReply(read_flags(flags), None if milliseconds_ < 0 else milliseconds_ / 1000, int(held_up), found)


def _delivery(headers: bytes, token: str, deliveries: int, **known: Any) -> Delivery:
    if not headers:
        return Delivery(token, deliveries, headers={}, **known)
    kept = json.loads(headers)
    return Delivery(
        token,
        deliveries,
        number=str(kept["number"]),
        priority=kept.get("priority", 0),
        headers=kept.get("headers", {}),
        unique_for=kept.get("unique", 0) / 1000,
        put_at=from_milliseconds(kept["time"]),
        **known,
    )


def _looked_at(
    state: str, score: bytes, deliveries: bytes, crashes: bytes, headers: bytes, error: bytes, group: bytes, whole: bool
) -> Delivery:
    """whole: whether the errors before the last one were read, too."""
    last = json.loads(error) if error else None
    earlier = last.pop("earlier", ()) if last else ()
    return _delivery(
        headers,
        "",
        int(deliveries.split()[0] if deliveries else 0) + (state == "in_flight"),
        crashes=int(crashes or 0),
        state=state,
        when=from_milliseconds(abs(float(score))) if state in _TIMED else None,
        error=last,
        errors=(last, *earlier) if last and whole else (),
        group=(last or {}).get("group", "") if state == "dead" else group.decode(errors="replace"),
    )


def read_listing(reply: Any, state: str, *, whole: bool) -> ItemPage:
    now, total, first, looked, anchor, *rest = reply
    items = []
    for i in range(0, len(rest), 11):
        uid, payload, size, score, deliveries, crashes, headers, error, group, token, position = rest[i : i + 11]
        delivery = _looked_at(state, score, deliveries, crashes, headers, error, group, whole)
        one = _listed(as_text(uid), payload, int(size), delivery, as_text(token), int(position))
        items.append(replace(one, score=as_text(score)))
    return ItemPage(from_milliseconds(int(now)), int(total), int(first), int(looked), as_text(anchor), items)


def _listed(uid: str, payload: bytes, size: int, delivery: Delivery, token: str, position: int | None) -> ItemView:
    if not token:
        return ItemView(uid, payload, size, delivery, position=position)
    claimed = re.search(r"@(\d+)", token)
    return ItemView(
        uid,
        payload,
        size,
        delivery,
        DeliveryRef(uid, token, delivery.number),
        token.partition("/")[0],
        from_milliseconds(int(claimed[1])) if claimed else None,
        position,
    )


def read_groups(reply: Any) -> list[ErrorGroup]:
    groups = []
    for name, entry, error in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
        number, first, last, *example = as_text(entry).split(" ")
        moments = from_milliseconds(int(first)), from_milliseconds(int(last))
        text = name.decode(errors="replace")
        groups.append(ErrorGroup(text, int(number), *moments, "".join(example), json.loads(error) if error else None))
    return groups


def read_shown(reply: Any, uid: str) -> ItemView | None:
    if not reply:
        return None
    _now, state, payload, size, score, deliveries, crashes, headers, error, group, token, ahead = reply
    delivery = _looked_at(as_text(state), score, deliveries, crashes, headers, error, group, True)
    return _listed(uid, payload, int(size), delivery, as_text(token), int(ahead) if ahead != b"" else None)


def read_results(reply: Any, uids: Sequence[bytes]) -> list[TaskView | None]:
    parts = [reply[i : i + 8] for i in range(0, len(reply), 8)]
    return [_known(uid.decode(), *map(bytes, found)) for uid, found in zip(uids, parts, strict=False)]


def _known(
    uid: str,
    state: bytes,
    payload: bytes,
    token: bytes,
    deliveries: bytes,
    crashes: bytes,
    headers: bytes,
    error: bytes,
    score: bytes,
) -> TaskView | None:
    if not state:
        return None
    if state == b"done":
        return read_result(uid, payload, score)
    last = json.loads(error) if error else None
    earlier = last.pop("earlier", ()) if last else ()
    return TaskView(
        uid,
        state.decode(),
        payload,
        token.decode(),
        int(deliveries.split()[0] if deliveries else 0) + (state == b"in_flight"),
        int(crashes or 0),
        json.loads(headers) if headers else {},
        [last, *earlier] if last else [],
        from_milliseconds(float(score)) if score else None,
    )


_ITEM = re.compile(r'{"ttl":\d+,"item":\s*')  # how a result begins


def read_result(uid: str, stored: bytes, score: bytes) -> TaskView:
    at = from_milliseconds(float(score))
    try:
        text = stored.decode()
        result = {"deliveries": 1, "end": int(float(score)), **json.loads(text)}
        begin = _ITEM.match(text)
        _, end = _JSON.raw_decode(text, begin.end() if begin else 0)
    except (ValueError, RecursionError):  # the payload is no JSON
        return TaskView(uid, "done", None, "", 0, 0, {}, [], at, {})
    return TaskView(
        uid,
        "done",
        text[begin.end() : end].encode() if begin else None,
        result["token"],
        result["deliveries"],
        0,
        result.get("headers", {}),
        result.get("errors", []),
        at,
        result,
    )


def read_finished(reply: Any) -> FinishedPage:
    total, before, *rest = reply
    items = [read_result(uid.decode(), *found) for uid, *found in zip(rest[::3], rest[1::3], rest[2::3], strict=True)]
    return FinishedPage(int(total), items, float(before) if before else None)


def _pairs(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {as_text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def read_counts(reply: Any) -> Counts:
    (
        now,
        ready,
        in_flight,
        delayed,
        retrying,
        dead,
        ended,
        due,
        layout,
        paused,
        oldest,
        headers,
        *hashes,
        minutes,
        hours,
        failing,
        results,
    ) = reply
    counters, consumers, meta = map(_pairs, hashes)
    numbers = {name: int(value) for name, value in counters.items()}
    buckets = {name: numbers.pop(name) for name in list(numbers) if name[-1].isdigit()}
    sums = {name: numbers.pop(name) for name in list(numbers) if name.endswith("_ms")}
    for total, kind in (("delivered", "wait"), ("acked", "run")):  # counted in a bucket, and not in the total as well
        if timed := sum(n for name, n in buckets.items() if name.startswith(kind)):
            numbers[total] = numbers.get(total, 0) + timed
    return Counts(
        at=from_milliseconds(int(now)),
        ready=int(ready),
        in_flight=int(in_flight),
        delayed=int(delayed),
        retrying=int(retrying),
        dead=int(dead),
        ended=int(ended),
        due=int(due),
        layout=int(layout) if layout else None,
        paused=json.loads(paused) if paused else None,
        oldest=_waiting_since(as_text(oldest), headers),
        stats=numbers,
        buckets=buckets,
        sums=sums,
        minutes=list(map(as_text, minutes)),
        hours=list(map(as_text, hours)),
        consumers={name: json.loads(value) for name, value in consumers.items()},
        meta={name: as_text(value) for name, value in meta.items()},
        failing=[
            FailingGroup(name.decode(errors="replace"), retrying, died)
            for name, retrying, died in zip(failing[1::3], failing[2::3], failing[3::3], strict=True)
        ],
        failing_rest=failing[0],
        results=int(results),
    )


def _waiting_since(uid: str, headers: bytes) -> dt.datetime | None:
    if not headers:
        return uid_time(uid) if uid else None
    kept = json.loads(headers)
    return from_milliseconds(kept.get("due", kept["time"]))
