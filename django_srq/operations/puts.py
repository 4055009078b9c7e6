"""Puts: adding items."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from django_srq.operations.call import Call, Keys
from django_srq.operations.encoding import encode_int, encode_moment, milliseconds
from django_srq.operations.replies import PutReply, read_put
from django_srq.operations.scripts import Script


class Put(NamedTuple):
    """One item to put: payload and headers are serialised, the uid is given or generated."""

    uid: str
    payload: bytes
    headers: bytes


def encode_headers(headers: Mapping[str, str] | None, *, priority: int = 0) -> bytes:
    """The entry of an item in ``headers``; empty when there is nothing to record, so that most items have none."""
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
    replaces_dead: bool = False,
    priority: int = 0,
    due: float | dt.datetime = 0,
    max_length: int | None = None,
    unique_for: float = 0,
    attempt: int = 0,
) -> Call[PutReply]:
    """Add items. items: tuples as Put.

    own: whether the caller chose the uids. replaces_dead: whether a dead item with such a uid is deleted, and the new
    one added. due: seconds from now, or a moment, by the server's clock. max_length: most items ready and delayed.
    unique_for: seconds for which a uid counts as there after its ack. attempt: see put.lua.
    """
    args = [_put_terms(priority, _due(due), max_length, own + (own and replaces_dead), unique_for, attempt)]
    for uid, payload, headers in items:
        args += (uid.encode(), payload, headers)
    # The message names the uid, as nobody else knows a generated one. Of a batch, the first uid tells which it was.
    more = ", …" if len(items) > 1 else ""
    unknown = f"it may be there; put it again with the same uid: {items[0][0]}{more}"
    return Call(Script.named("put"), keys, tuple(args), read_put, unknown)


def payload_size(call: Call[PutReply]) -> int:
    """The bytes of the payloads of a call of ``put``."""
    return sum(map(len, call.args[2::3]))


@lru_cache(maxsize=64)
def _put_terms(priority: int, due: bytes, max_length: int | None, own: int, unique_for: float, attempt: int) -> bytes:
    """The terms of a put, as one argument: in the common case, the script compares it once with the usual terms."""
    times = encode_int(milliseconds(unique_for)), encode_int(attempt)
    return b" ".join((encode_int(priority), due, encode_int(max_length or 0), encode_int(own), *times))


def _due(due: float | dt.datetime) -> bytes:
    # Not cached: in the hour that comes twice, in autumn, Python takes two different moments for equal.
    return b"@" + encode_moment(due) if isinstance(due, dt.datetime) else encode_int(milliseconds(due))
