"""The operations: which script, with what keys and arguments, and how to read its reply. Does no I/O.

This is the only place that knows the Lua files, the order of their KEYS and ARGV and the shape of their replies. Each
function makes a ``Call``; whoever has a connection, sync or async, sends it (connections.py).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Generic, NamedTuple, TypeVar

from django_srq.item import Delivery, from_milliseconds, uid_time
from django_srq.rate import Rate

T = TypeVar("T")

LAYOUT = 1  # the version of the key layout; a change comes with a path for queues that hold items
STATES = ("ready", "in_flight", "delayed", "dead")
_TIMED = ("in_flight", "delayed", "dead")  # states whose place in the order is a moment
BATCH = 1000  # items in one call at most: bounds how long one script runs
# The same for fail_many, with one error for all and with one for each: some services take at most 3,999 arguments.
FAILED_ALIKE, FAILED = 990, 790
# Bytes in one call or reply at most, besides its first item, which may be as large as it likes: so much as one payload
# has by default at most. More of them would not be faster, and hold up all others: the server copies such a reply in
# less than 1 ms, and 10 Mbit/s carry it within 1 s.
MOST_BYTES = 2**20
GIVE_BACK, UNREAD = -1, -2  # in place of a claim's n: see claim.lua


def _read(folder: Traversable) -> dict[str, str]:
    """The Lua files in there, by name."""
    files = (file for file in folder.iterdir() if file.name.endswith(".lua"))
    return {file.name.removesuffix(".lua"): file.read_text("utf-8") for file in files}


# Read together with the code that belongs to it, and not when first needed: after an upgrade in place, a process that
# runs would find other files, or none.
_FOLDER = resources.files("django_srq") / "lua"
_LUA, _SHARED = _read(_FOLDER), _read(_FOLDER / "shared")
_KEY = re.compile(r"^(?:local| {5}) (\w+),? +-- (\w+):", re.MULTILINE)
_INCLUDE = re.compile(r"^ *-- include: (.+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_FACT = re.compile(r"\bfacts\.(\w+)")
_COMMAND = re.compile(r"\bredis\.p?call\('([A-Z]+)'")
_OPTIONAL = frozenset({"INFO"})  # commands that a script does without where they are refused
_IDLE = frozenset({"claim", "enlist"})  # scripts that consumers which wait call, again and again
_WORD = re.compile(r"\w+")
_FUNCTION = re.compile(r"^( *)local function (\w+)\(.*?^\1end\n", re.MULTILINE | re.DOTALL)


@cache
def key_types() -> dict[str, str]:
    """The keys of a queue, in the order of KEYS, with their Redis types; read from lua/shared/keys.lua."""
    return dict(_KEY.findall(_SHARED["keys"]))


@dataclass(frozen=True)
class Script:
    """One Lua file with what it includes."""

    name: str
    text: bytes
    sha: bytes
    writes: bool

    @staticmethod
    @cache
    def named(name: str) -> Script:
        source = _LUA[name]
        idle = "true" if name in _IDLE else "false"
        whole = _stripped(_INCLUDE.sub(_included, source)).replace("IDLE", idle)
        text = _with_rights(_with_facts(whole)).encode()
        # SHA-1 is how Redis names scripts; nothing depends on its strength.
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        return Script(name, text, sha, writes="no-writes" not in source.splitlines()[0])


def _shared(name: str) -> str:
    if name == "most_bytes":
        return f"local MOST_BYTES = {MOST_BYTES}\n"
    if name == "types":
        types = ", ".join(f"'{kind}'" for kind in key_types().values())
        return f"local types = {{{types}}}\n"
    return _SHARED[name]


def _included(match: re.Match[str]) -> str:
    names = match[1].split()
    parts = [_INCLUDE.sub(_included, _shared(name)) for name in names]
    if "keys" in names:
        parts.insert(0, f"local LAYOUT = '{LAYOUT}'")
    return "\n".join(parts)


def _stripped(text: str) -> str:
    """Without comments, and without functions that nothing calls: a script makes all of them anew in each run."""
    text = _COMMENT.sub("", text)
    while unused := _unused(text):
        for function in unused:
            text = text.replace(function, "")
    return text


def _unused(text: str) -> list[str]:
    words = Counter(_WORD.findall(text))
    functions = Counter((match[2], match[0]) for match in _FUNCTION.finditer(text))
    # All mentions of it are its own: its name, and calls of itself.
    return [body for (name, body), times in functions.items() if words[name] == times * _WORD.findall(body).count(name)]


def _with_facts(text: str) -> str:
    """With what reads the fields of meta that the script uses: each costs time, so none is read in vain."""
    names = sorted(set(_FACT.findall(text)))
    fields = ", ".join(f"'{name}'" for name in names)
    numbers = ", ".join(f"{name} = tonumber(found[{i}])" for i, name in enumerate(names, 1))
    read = f"local found = redis.call('HMGET', meta, {fields})\nlocal facts = {{{numbers}}}"
    return text.replace("local facts = FACTS", read)


def _with_rights(text: str) -> str:
    """With the commands that a user needs for the script, which asks for them before it changes anything."""
    return text.replace("RIGHTS, ", f"'{' '.join(sorted(_commands(text) - _OPTIONAL))}', ")


def _commands(text: str) -> set[str]:
    return set(_COMMAND.findall(text))


@dataclass(frozen=True)
class Keys:
    """The keys of one queue: ``srq:<name>:…``, or ``srq:{<name>}:…`` so that a cluster keeps them in one slot."""

    name: str
    cluster: bool = False
    # Not a cached_property, which until Python 3.12 has a lock: a fork while it is held would leave it so in the child.
    _heads: dict[tuple[bytes, bytes], tuple[int, bytes]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __str__(self) -> str:
        return f"srq:{{{self.name}}}" if self.cluster else f"srq:{self.name}"

    def __getitem__(self, key: str) -> str:
        return f"{self}:{key}"

    def head(self, command: bytes, script: bytes) -> tuple[int, bytes]:
        """What all calls of a script have in common, packed, and of how many arguments it consists."""
        head = self._heads.get((command, script))
        if head is None:
            names = [self[key].encode() for key in key_types()]
            parts = [command, script, b"%d" % len(names), *names]
            head = len(parts), b"".join(_packed(parts))
            if command.startswith(b"EVALSHA"):  # the others are long, and needed once
                self._heads[command, script] = head
        return head


class _Numbers(dict[int, bytes]):
    """Numbers in the wire protocol: to format one costs more than to pack an argument."""

    def __init__(self, form: bytes) -> None:
        super().__init__({number: form % number for number in range(1024)})
        self._form = form

    def __missing__(self, number: int) -> bytes:
        return self._form % number


_COUNTS, _LENGTHS = _Numbers(b"*%d"), _Numbers(b"\r\n$%d\r\n")


def _packed(args: Sequence[bytes]) -> list[bytes]:
    """Bulk strings of the wire protocol, to be joined.

    The end of each is written before the next; that of the last is missing.
    """
    parts = []
    for arg in args:
        parts.append(_LENGTHS[len(arg)])
        parts.append(arg)
    return parts


class Call(NamedTuple, Generic[T]):
    """One operation, ready to be sent as often as it takes; ``read`` turns its reply into the result."""

    script: Script
    keys: Keys
    args: tuple[bytes, ...]
    read: Callable[[Any], T]
    unknown: str = "call again: it is safe to repeat"  # what to do when the outcome is unknown

    def pack(self, slot: bytes, seq: int, *, whole: bool = False, read_only: bool = True) -> bytes:
        """The command in the wire protocol; whole: with the script's text, for a server that does not know it.

        read_only: a script that only reads goes by the command for those: then the right to read the keys is enough.
        """
        script = self.script
        if script.writes or not read_only:
            count, head = self.keys.head(b"EVAL", script.text) if whole else self.keys.head(b"EVALSHA", script.sha)
        else:
            count, head = self.keys.head(*((b"EVAL_RO", script.text) if whole else (b"EVALSHA_RO", script.sha)))
        args = (slot, b"%d" % seq, *self.args) if script.writes else self.args
        return b"".join([_COUNTS[count + len(args)], head, *_packed(args), b"\r\n"])


@dataclass(frozen=True)
class Command(Generic[T]):
    """A plain command beside the scripts; sent like a ``Call``."""

    args: tuple[bytes, ...]
    read: Callable[[Any], T]

    def pack(self, slot: bytes = b"", seq: int = 0, *, whole: bool = False, read_only: bool = True) -> bytes:
        return b"".join([_COUNTS[len(self.args)], *_packed(self.args), b"\r\n"])


def cut(things: Iterable[T], sizes: Iterable[int], most: int = BATCH) -> Iterator[list[T]]:
    """In batches of so many at most, and of MOST_BYTES more than the first of each at most, by their sizes (bytes)."""
    batch: list[T] = []
    more = 0
    for thing, size in zip(things, sizes, strict=True):
        if batch and (len(batch) == most or more + size > MOST_BYTES):
            yield batch
            batch, more = [], 0
        more += size if batch else 0
        batch.append(thing)
    if batch:
        yield batch


class Put(NamedTuple):
    """One item to put: payload and headers are serialised, the uid is given or generated."""

    uid: str
    payload: bytes
    headers: bytes


class Held(NamedTuple):
    """Names a delivery in ack, fail, extend and release: by token, or ('' as token) whoever's it is."""

    uid: str
    token: str = ""
    number: str = ""


class Failed(NamedTuple):
    """A delivery that failed: of what (JSON), and for how long (seconds) the item waits before the next one."""

    held: Held
    error: bytes = b""
    delay: float = 0


class PutReply(NamedTuple):
    states: Sequence[str]  # per item: "" when added, else the state in which the uid is there already
    full_at: int | None  # the length, when nothing was added because the queue is full


class Found(NamedTuple):
    """An item as the server has it."""

    uid: str
    payload: bytes
    delivery: Delivery


class ClaimReply(NamedTuple):
    acked: Sequence[bool]
    wait: float | None  # seconds until it is worth asking again; None: no known moment; 0: at once
    held_up: int  # ready items that only the limits hold up
    found: Sequence[Found]


@dataclass(frozen=True)
class Ended:
    states: Sequence[str | None]  # per item: where it went; None: that delivery was over
    found: Mapping[str, str]  # what the last claim took besides: uid to where it went


@dataclass(frozen=True)
class Page:
    found: Sequence[Found]
    offset: int | None  # where to go on; None: that was all


@dataclass(frozen=True)
class Listed:
    """An item as people look at it; looking makes nobody its holder."""

    uid: str
    payload: bytes  # empty when it is larger than was asked for
    size: int  # bytes of the payload
    delivery: Delivery
    holder: Held | None = None  # the delivery that has it in hand
    consumer: str = ""
    claimed_at: dt.datetime | None = None
    position: int | None = None  # in the order of its state, from 0 on
    score: str = ""  # as the server has it


@dataclass(frozen=True)
class Listing:
    at: dt.datetime
    total: int  # uids in that state
    first: int  # position of the first that was looked at
    looked: int  # how many were looked at
    anchor: str  # where to go on; empty at the end
    items: Sequence[Listed]


@dataclass(frozen=True)
class DeadGroup:
    """Dead items with one error."""

    name: str
    count: int
    first: dt.datetime
    last: dt.datetime
    example: str  # uid of one; empty when none is known
    error: Mapping[str, Any] | None  # that of the example


@dataclass(frozen=True)
class Counts:
    """What a queue holds, at one moment of the server's clock."""

    at: dt.datetime
    ready: int
    in_flight: int
    delayed: int
    dead: int
    ended: int  # in flight with an ended lease that nobody recovers automatically
    due: int  # delayed and due, or in flight with an ended lease: the next claim makes them ready
    layout: int | None  # None: the queue was never used
    paused: Mapping[str, Any] | None
    oldest: dt.datetime | None  # when the next ready item was put, where that is known
    stats: Mapping[str, int] = field(default_factory=dict)  # counters that only grow
    buckets: Mapping[str, int] = field(default_factory=dict)  # wait<e> and run<e>, see lua/shared/series.lua
    minutes: Sequence[str] = ()  # of the time series, as they are stored
    hours: Sequence[str] = ()
    consumers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)


def milliseconds(seconds: float) -> int:
    """Whole milliseconds; at least 1 for anything above zero, so that a short time is not taken for none."""
    return max(1, round(seconds * 1000)) if seconds > 0 else 0


def encode_headers(headers: Mapping[str, str] | None, *, priority: int = 0) -> bytes:
    """What goes into ``headers`` for an item; empty when there is nothing to keep: most items cost nothing."""
    kept: dict[str, Any] = {}
    if priority:
        kept["priority"] = priority
    if headers:
        kept["headers"] = dict(headers)
    return json.dumps(kept, ensure_ascii=False).encode() if kept else b""


def put(
    keys: Keys,
    items: Sequence[tuple[str, bytes, bytes]],
    *,
    own: bool,
    priority: int = 0,
    due: float | dt.datetime = 0,
    max_length: int | None = None,
    attempt: int = 0,
) -> Call[PutReply]:
    """items: as Put. due: seconds from now, or a moment; both by the server's clock. attempt: see put.lua."""
    args = [_put_terms(priority, _due(due), max_length, own, attempt)]
    for uid, payload, headers in items:
        args += (uid.encode(), payload, headers)
    # Nobody else knows a generated uid; of a batch, the first tells which it was.
    more = ", …" if len(items) > 1 else ""
    unknown = f"it may be there; put it again with the same uid: {items[0][0]}{more}"
    return Call(Script.named("put"), keys, tuple(args), _read_put, unknown)


@lru_cache(maxsize=64)
def _put_terms(priority: int, due: bytes, max_length: int | None, own: bool, attempt: int) -> bytes:
    """As one argument: so mostly there is one comparison to make of it, on the server."""
    return b" ".join((_int(priority), due, _int(max_length or 0), _flag(own), _int(attempt)))


def _due(due: float | dt.datetime) -> bytes:
    # Not cached: the two moments of an hour that comes twice, in autumn, are equal to Python.
    return b"@" + _moment(due) if isinstance(due, dt.datetime) else _int(milliseconds(due))


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
    rate: Rate | None = None,
    limited: bool = True,
    acks: Iterable[Held] = (),
) -> Call[ClaimReply]:
    """n: items at most, or GIVE_BACK or UNREAD.

    limited: False takes without regard to the limits, and leaves them as they are for others.
    """
    sign = 1 if recover else -1
    terms = _claim_terms(consumer, sign * lease, sign * legacy_lease, n, max_deliveries, max_crashes)
    limits = _limit_terms(max_in_flight, rate) if limited else (b"-1", b"0")
    unknown = "what it may have taken comes back when its lease ends"
    return Call(Script.named("claim"), keys, (*terms, *limits, *_acks(acks)), _read_claim, unknown)


@lru_cache(maxsize=256)
def _claim_terms(
    consumer: str, lease: float, legacy_lease: float, n: int, max_deliveries: int | None, max_crashes: int | None
) -> tuple[bytes, ...]:
    """What a consumer says in every claim, encoded once."""
    leases = (
        _int(-milliseconds(-seconds) if seconds < 0 else milliseconds(seconds)) for seconds in (lease, legacy_lease)
    )
    return (consumer.encode(), *leases, _int(n), _int(max_deliveries or 0), _int(max_crashes or 0))


@lru_cache(maxsize=64)
def _limit_terms(max_in_flight: int | None, rate: Rate | None) -> tuple[bytes, bytes]:
    return _int(max_in_flight or 0), b"%.3f" % (1000 / rate.per_second) if rate else b"0"


def ack(keys: Keys, held: Iterable[Held]) -> Call[list[bool]]:
    return Call(Script.named("ack"), keys, _acks(held), _read_flags)


def fail(
    keys: Keys,
    held: Held,
    *,
    error: bytes = b"",
    delay: float = 0,
    max_deliveries: int | None = None,
    bury: bool = False,
) -> Call[str | None]:
    call = fail_many(keys, [Failed(held, error, delay)], max_deliveries=max_deliveries, bury=bury)
    return Call(call.script, keys, call.args, lambda reply: _read_states(reply)[0])


def fail_many(
    keys: Keys, failed: Iterable[Failed], *, max_deliveries: int | None = None, bury: bool = False
) -> Call[list[str | None]]:
    errors: dict[bytes, int] = {b"": 0}  # error: its place; many items mostly fail of the same one
    items: list[bytes] = []
    for one in failed:
        place = errors.setdefault(one.error, len(errors))
        items += (one.held.uid.encode(), one.held.token.encode(), _int(milliseconds(one.delay)), _int(place))
    args = [_int(max_deliveries or 0), b"1" if bury else b"0", _int(len(errors) - 1), *list(errors)[1:], *items]
    return Call(Script.named("fail"), keys, tuple(args), _read_states)


def extend(
    keys: Keys,
    held: Iterable[Held],
    *,
    lease: float,
    recover: bool = True,
    consumer: str = "",
    about: bytes = b"",
    claims: Iterable[bytes] = (),
) -> Call[list[bool]]:
    """claims: see extend.lua, ARGV[6]."""
    sign = 1 if recover else -1
    args = [_int(sign * milliseconds(lease)), consumer.encode(), about, b" ".join(claims)]
    for one in held:
        args += (one.uid.encode(), one.token.encode())
    return Call(Script.named("extend"), keys, tuple(args), _read_flags)


def release(keys: Keys, held: Iterable[Held]) -> Call[list[bool]]:
    args = [part for one in held for part in (one.uid.encode(), one.token.encode())]
    return Call(Script.named("release"), keys, tuple(args), _read_flags)


def withdraw(keys: Keys, slot: bytes, number: int) -> Call[int | None]:
    """Give back what the claim with that number in the slot took, as far as it is still held; how many items.

    None: it was not carried out yet, and may take some later.
    """

    def read(reply: Any) -> int | None:
        given = int(_text(reply))
        return None if given < 0 else given

    return Call(Script.named("withdraw"), keys, (slot, _int(number)), read)


def crashed(
    keys: Keys,
    held: Sequence[Held],
    *,
    evidence: bytes,
    how: str = "crash",
    slot: bytes = b"",
    max_deliveries: int | None = None,
    max_crashes: int | None = None,
) -> Call[Ended]:
    """how, slot: see crashed.lua."""

    def read(reply: Any) -> Ended:
        states = _text(reply).split()
        found = states[len(held) :]
        return Ended(
            [None if state == "-" else state for state in states[: len(held)]],
            dict(zip(found[::2], found[1::2], strict=True)),
        )

    args = [_int(max_deliveries or 0), _int(max_crashes or 0), how.encode(), evidence, slot]
    for one in held:
        args += (one.uid.encode(), one.token.encode())
    return Call(Script.named("crashed"), keys, tuple(args), read)


def recover(
    keys: Keys,
    *,
    legacy_lease: float,
    recover: bool = True,
    max_deliveries: int | None = None,
    max_crashes: int | None = None,
) -> Call[tuple[int, int]]:
    sign = 1 if recover else -1
    args = (_int(max_deliveries or 0), _int(max_crashes or 0), _int(sign * milliseconds(legacy_lease)))
    return Call(Script.named("recover"), keys, args, _read_pair)


def requeue(keys: Keys, uids: Iterable[str]) -> Call[list[bool]]:
    return Call(Script.named("requeue"), keys, tuple(uid.encode() for uid in uids), _read_flags)


def requeue_dead(
    keys: Keys, *, error: str = "", older_than: float = 0, most: int = BATCH, cursor: str = ""
) -> Call[tuple[int, str]]:
    """One batch: how many were made ready, and the cursor for the next call, "" when that was all.

    error: only items of this group or type. older_than: seconds since their death when the first call was made.
    """
    return Call(Script.named("requeue_dead"), keys, (*_chosen(cursor, older_than, error), _int(most)), _read_swept)


def purge_dead(
    keys: Keys, *, error: str = "", older_than: float = 0, most: int = BATCH, cursor: str = ""
) -> Call[tuple[int, str]]:
    """One batch, as in ``requeue_dead``: how many were deleted, and the next cursor."""
    return Call(Script.named("purge_dead"), keys, (*_chosen(cursor, older_than, error), _int(most)), _read_swept)


def count_dead(
    keys: Keys, *, error: str = "", older_than: float = 0, cursor: str = ""
) -> Call[tuple[dict[str, int], str]]:
    """One batch, as in ``requeue_dead``: how many there are of each group, and the next cursor."""

    def read(reply: Any) -> tuple[dict[str, int], str]:
        following, *groups = reply
        return {name: int(number) for name, number in _pairs(groups).items()}, _text(following)

    return Call(Script.named("count_dead"), keys, _chosen(cursor, older_than, error), read)


def drop(keys: Keys, items: Iterable[Held], *, state: str = "") -> Call[list[bool]]:
    """items: by uid, and by number where that is known."""
    args = [part.encode() for item in items for part in (item.uid, item.number)]
    return Call(Script.named("drop"), keys, (state.encode(), *args), _read_flags)


def purge(keys: Keys, *, marker: str, start: bool) -> Call[tuple[bool, int]]:
    def read(reply: Any) -> tuple[bool, int]:
        more, gone = _text(reply).split()
        return more == "more", int(gone)

    args = (marker.encode(), _int(BATCH), b"1" if start else b"0")
    return Call(Script.named("purge"), keys, args, read)


def pause(keys: Keys, *, about: Mapping[str, str], until: dt.datetime | None = None) -> Call[bool]:
    args = (json.dumps(dict(about), ensure_ascii=False).encode(), _moment(until) if until else b"0")
    return Call(Script.named("pause"), keys, args, _read_flag)


def resume(keys: Keys) -> Call[bool]:
    return Call(Script.named("resume"), keys, (), _read_flag)


def enlist(keys: Keys, consumer: str, about: bytes) -> Call[int]:
    return Call(Script.named("enlist"), keys, (consumer.encode(), about), lambda reply: int(_text(reply)))


def peek(keys: Keys, state: str, *, offset: int = 0, count: int = 100, brief: bool = False) -> Call[Page]:
    """brief: without payloads and errors."""
    args = (state.encode(), _int(offset), _int(count), _flag(brief))
    return Call(Script.named("peek"), keys, args, lambda reply: _read_page(reply, state))


def uids(keys: Keys, name: str, cursor: bytes, count: int) -> Call[tuple[bytes, list[str]]]:
    """About so many uids of a hash, and the next cursor, b"0" when that was all."""
    args = (name.encode(), cursor, _int(count))
    return Call(Script.named("uids"), keys, args, lambda reply: (reply[0], list(map(_text, reply[1:]))))


def find(keys: Keys, uids: Iterable[str], *, deep: bool = False) -> Call[list[set[str]]]:
    def read(reply: Any) -> list[set[str]]:
        return [set(_text(places).split(",")) - {""} for places in reply]

    return Call(Script.named("find"), keys, (b"1" if deep else b"0", *(uid.encode() for uid in uids)), read)


def counts(keys: Keys, *, minutes: int = 0, hours: int = 0) -> Call[Counts]:
    """minutes, hours: how many of the time series come with it."""
    return Call(Script.named("counts"), keys, (_int(minutes), _int(hours)), _read_counts)


def list_items(
    keys: Keys,
    state: str,
    *,
    anchor: str = "0",
    count: int = 50,
    look: int = BATCH,
    newest: bool = False,
    largest: int = 0,
    brief: bool = False,
    group: str = "",
) -> Call[Listing]:
    """anchor and the rest: as in list.lua."""
    flags = (_flag(newest), _int(largest), _flag(brief))
    args = (state.encode(), anchor.encode(), _int(count), _int(look), *flags, group.encode(errors="replace"))
    return Call(Script.named("list"), keys, args, lambda reply: _read_listing(reply, state))


def dead_groups(keys: Keys, *, tracebacks: int = 20) -> Call[list[DeadGroup]]:
    return Call(Script.named("groups"), keys, (_int(tracebacks),), _read_groups)


def show(keys: Keys, uid: str, *, largest: int) -> Call[Listed | None]:
    return Call(Script.named("show"), keys, (uid.encode(), _int(largest)), lambda reply: _read_shown(reply, uid))


def info() -> Command[dict[str, str]]:
    """The server's own account of itself."""

    def read(reply: Any) -> dict[str, str]:
        lines = (line.partition(":") for line in _text(reply).splitlines())
        return {name: value for name, colon, value in lines if colon}

    return Command((b"INFO",), read)


def ended(keys: Keys, at: dt.datetime) -> Command[int]:
    """How many leases had ended at a moment of the server's clock, those that are never recovered automatically too."""
    moment = _moment(at)
    return Command((b"ZCOUNT", keys["leases"].encode(), b"-" + moment, moment), int)


def wait(queues: Iterable[Keys], seconds: float) -> Command[str]:
    """Block until a wake token arrives for one of the queues; its wake list, or "" after so many seconds."""
    lists = (keys["wake"].encode() for keys in queues)
    # A time-out of 0 would mean for ever.
    return Command((b"BLPOP", *lists, b"%.3f" % max(seconds, 0.001)), lambda reply: _text(reply[0]) if reply else "")


def take_token(queues: Sequence[Keys]) -> Command[str]:
    """Take a wake token of the first of the queues that has one; its wake list, or "" when none has. Does not block."""
    lists = (keys["wake"].encode() for keys in queues)
    return Command((b"LMPOP", _int(len(queues)), *lists, b"LEFT"), lambda reply: _text(reply[0]) if reply else "")


def ring(keys: Keys) -> Command[None]:
    """Put a wake token back that was meant for somebody who comes sooner."""
    return Command((b"RPUSH", keys["wake"].encode(), b"1"), lambda reply: None)


def _int(value: int) -> bytes:
    return b"%d" % value


def _flag(value: bool) -> bytes:
    return b"1" if value else b"0"


def _moment(moment: dt.datetime) -> bytes:
    return _int(round(moment.timestamp() * 1000))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _acks(held: Iterable[Held]) -> tuple[bytes, ...]:
    return tuple([part.encode() for one in held for part in one])


def _chosen(cursor: str, older_than: float, error: str) -> tuple[bytes, ...]:
    return cursor.encode(), _int(milliseconds(older_than)), error.encode(errors="backslashreplace")


def _read_flag(reply: Any) -> bool:
    return _text(reply) == "1"


def _read_flags(reply: bytes) -> list[bool]:
    return [flag == 49 for flag in reply]  # b"1"


def _read_states(reply: Any) -> list[str | None]:
    return [None if state == "-" else state for state in _text(reply).split()]


def _read_pair(reply: Any) -> tuple[int, int]:
    made, looked = _text(reply).split()
    return int(made), int(looked)


def _read_swept(reply: Any) -> tuple[int, str]:
    number, _, cursor = _text(reply).partition(" ")
    return int(number), cursor


_ADDED = PutReply(("",), None)


def _read_put(reply: Any) -> PutReply:
    if reply == b"added 1":
        return _ADDED  # as mostly
    verdict, *states = _text(reply).split()
    if verdict == "full":
        return PutReply((), int(states[0]))
    if verdict == "there":
        return PutReply(states[:1], None)
    return PutReply(["" if state == "1" else state for state in states], None)


def _read_claim(reply: Any) -> ClaimReply:
    flags, wait, held_up, *rest = reply
    milliseconds_ = int(wait)
    found = []
    parts = iter(rest)
    for uid, token, payload, deliveries, headers in zip(parts, parts, parts, parts, parts, strict=True):
        crashes = 0
        if type(deliveries) is bytes:
            deliveries, crashes = map(int, deliveries.split())
        delivery = _delivery(headers, token.decode(), deliveries, crashes=crashes)
        found.append(Found(uid.decode(), payload, delivery))
    return ClaimReply(_read_flags(flags), None if milliseconds_ < 0 else milliseconds_ / 1000, int(held_up), found)


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
        put_at=from_milliseconds(kept["time"]),
        **known,
    )


def _read_page(reply: Any, state: str) -> Page:
    following, _now, *rest = reply
    found = []
    for i in range(0, len(rest), 8):
        uid, payload, score, deliveries, crashes, headers, error, _token = rest[i : i + 8]
        found.append(Found(_text(uid), payload, _looked_at(state, score, deliveries, crashes, headers, error)))
    offset = int(following)
    return Page(found, None if offset < 0 else offset)


def _looked_at(state: str, score: bytes, deliveries: bytes, crashes: bytes, headers: bytes, error: bytes) -> Delivery:
    return _delivery(
        headers,
        "",
        int(deliveries.split()[0] if deliveries else 0) + (state == "in_flight"),
        crashes=int(crashes or 0),
        state=state,
        when=from_milliseconds(abs(float(score))) if state in _TIMED else None,
        error=json.loads(error) if error else None,
    )


def _read_listing(reply: Any, state: str) -> Listing:
    now, total, first, looked, anchor, *rest = reply
    items = []
    for i in range(0, len(rest), 10):
        uid, payload, size, score, deliveries, crashes, headers, error, token, position = rest[i : i + 10]
        delivery = _looked_at(state, score, deliveries, crashes, headers, error)
        one = _listed(_text(uid), payload, int(size), delivery, _text(token), int(position))
        items.append(replace(one, score=_text(score)))
    return Listing(from_milliseconds(int(now)), int(total), int(first), int(looked), _text(anchor), items)


def _listed(uid: str, payload: bytes, size: int, delivery: Delivery, token: str, position: int | None) -> Listed:
    if not token:
        return Listed(uid, payload, size, delivery, position=position)
    claimed = re.search(r"@(\d+)", token)
    return Listed(
        uid,
        payload,
        size,
        delivery,
        Held(uid, token, delivery.number),
        token.partition("/")[0],
        from_milliseconds(int(claimed[1])) if claimed else None,
        position,
    )


def _read_groups(reply: Any) -> list[DeadGroup]:
    groups = []
    for name, entry, error in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
        number, first, last, *example = _text(entry).split(" ")
        moments = from_milliseconds(int(first)), from_milliseconds(int(last))
        text = name.decode(errors="replace")
        groups.append(DeadGroup(text, int(number), *moments, "".join(example), json.loads(error) if error else None))
    return groups


def _read_shown(reply: Any, uid: str) -> Listed | None:
    if not reply:
        return None
    _now, state, payload, size, score, deliveries, crashes, headers, error, token, ahead = reply
    delivery = _looked_at(_text(state), score, deliveries, crashes, headers, error)
    return _listed(uid, payload, int(size), delivery, _text(token), int(ahead) if ahead != b"" else None)


def _pairs(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {_text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _read_counts(reply: Any) -> Counts:
    now, ready, in_flight, delayed, dead, ended, due, layout, paused, oldest, headers, *hashes, minutes, hours = reply
    counters, consumers, meta = map(_pairs, hashes)
    numbers = {name: int(value) for name, value in counters.items()}
    buckets = {name: numbers.pop(name) for name in list(numbers) if name[-1].isdigit()}
    for total, kind in (("delivered", "wait"), ("acked", "run")):  # counted there already
        if timed := sum(n for name, n in buckets.items() if name.startswith(kind)):
            numbers[total] = numbers.get(total, 0) + timed
    return Counts(
        at=from_milliseconds(int(now)),
        ready=int(ready),
        in_flight=int(in_flight),
        delayed=int(delayed),
        dead=int(dead),
        ended=int(ended),
        due=int(due),
        layout=int(layout) if layout else None,
        paused=json.loads(paused) if paused else None,
        oldest=_waiting_since(_text(oldest), headers),
        stats=numbers,
        buckets=buckets,
        minutes=list(map(_text, minutes)),
        hours=list(map(_text, hours)),
        consumers={name: json.loads(value) for name, value in consumers.items()},
        meta={name: _text(value) for name, value in meta.items()},
    )


def _waiting_since(uid: str, headers: bytes) -> dt.datetime | None:
    if not headers:
        return uid_time(uid) if uid else None
    kept = json.loads(headers)
    return from_milliseconds(kept.get("due", kept["time"]))
