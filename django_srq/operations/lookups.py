"""Lookups: counting, listing and finding items. They change nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from django_srq.operations.call import BATCH, Call, Command, Keys
from django_srq.operations.encoding import encode_flag, encode_int
from django_srq.operations.replies import (
    Counts,
    FinishedPage,
    ItemPage,
    ItemView,
    TaskView,
    as_text,
    read_counts,
    read_finished,
    read_listing,
    read_results,
    read_shown,
)
from django_srq.operations.scripts import MOST_BYTES, Script


def uids(keys: Keys, name: str, cursor: bytes, count: int) -> Call[tuple[bytes, list[str]]]:
    """About so many uids of a hash (name: see uids.lua), and the next cursor, b"0" when that was all."""
    args = (name.encode(), cursor, encode_int(count))
    return Call(Script.named("uids"), keys, args, lambda reply: (reply[0], list(map(as_text, reply[1:]))))


def find(keys: Keys, uids: Iterable[str], *, deep: bool = False) -> Call[list[set[str]]]:
    def read(reply: Any) -> list[set[str]]:
        return [set(as_text(places).split(",")) - {""} for places in reply]

    return Call(Script.named("find"), keys, (b"1" if deep else b"0", *(uid.encode() for uid in uids)), read)


def counts(keys: Keys, *, minutes: int = 0, hours: int = 0, recent: float = 0) -> Call[Counts]:
    """Everything that the status shows of a queue. minutes, hours: how many periods of the time series to include.

    recent: for how many seconds back the groups of errors are included that took an item.
    """
    args = (encode_int(minutes), encode_int(hours), encode_int(round(recent * 1000)))
    return Call(Script.named("counts"), keys, args, read_counts)


def list_items(
    keys: Keys,
    state: str,
    *,
    anchor: str = "0",
    count: int = 50,
    look: int = BATCH,
    newest: bool = False,
    largest: int = 0,
    detail: Literal["all", "last", "headers", "none"] = "all",
    most_bytes: int = 2 * MOST_BYTES,
    group: str = "",
) -> Call[ItemPage]:
    """A page of the items of one state. The arguments are those of page.lua."""
    args = (
        state.encode(),
        anchor.encode(),
        encode_int(count),
        encode_int(look),
        encode_flag(newest),
        encode_int(largest),
        detail.encode(),
        encode_int(most_bytes),
        group.encode(errors="replace"),
    )
    return Call(Script.named("page"), keys, args, lambda reply: read_listing(reply, state, whole=detail == "all"))


def show(keys: Keys, uid: str, *, largest: int) -> Call[ItemView | None]:
    return Call(Script.named("item"), keys, (uid.encode(), encode_int(largest)), lambda reply: read_shown(reply, uid))


def results(keys: Keys, uids: Iterable[str]) -> Call[list[TaskView | None]]:
    """Items, or what is kept of them after their acks; None for a uid that is not known.

    A reply that would be too large ends before the last uid: then ask again for the others.
    """
    args = tuple(uid.encode() for uid in uids)
    return Call(Script.named("results"), keys, args, lambda reply: read_results(reply, args))


def finished(keys: Keys, *, before: float | None = None, n: int = 50) -> Call[FinishedPage]:
    """A page of n results at most, the newest first. before: that of the page before."""
    args = b"" if before is None else repr(before).encode(), encode_int(n)
    return Call(Script.named("finished"), keys, args, read_finished)


def wrong_groups(keys: Keys) -> Call[list[tuple[str, int, int]]]:
    """Groups of retrying items with a wrong count: the name ("" for all groups), the count, the number of items."""

    def read(reply: Any) -> list[tuple[str, int, int]]:
        return [
            (name.decode(errors="replace"), int(counted), int(found))
            for name, counted, found in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        ]

    return Call(Script.named("wrong_groups"), keys, (), read)


def info() -> Command[dict[str, str]]:
    """The fields that the server reports about itself (INFO)."""

    def read(reply: Any) -> dict[str, str]:
        lines = (line.partition(":") for line in as_text(reply).splitlines())
        return {name: value for name, colon, value in lines if colon}

    return Command((b"INFO",), read)
