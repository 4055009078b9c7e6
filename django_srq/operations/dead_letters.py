"""Items that failed: counting, grouping, requeueing and purging dead ones, and those that are retrying."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django_srq.operations.call import BATCH, Call, Keys
from django_srq.operations.encoding import encode_choice, encode_int
from django_srq.operations.replies import ErrorGroup, _pairs, as_text, read_flags, read_groups, read_swept
from django_srq.operations.scripts import Script


def requeue(keys: Keys, uids: Iterable[str]) -> Call[list[bool]]:
    return Call(Script.named("requeue"), keys, tuple(uid.encode() for uid in uids), read_flags)


def requeue_dead(
    keys: Keys, *, error: str = "", older_than: float = 0, most: int = BATCH, cursor: str = ""
) -> Call[tuple[int, str]]:
    """Make one batch of dead items ready: how many, and the cursor for the next call, "" when that was all.

    error: only items of this group or type. older_than: only items that had been dead for so many seconds when the
    first call was made. most: items at most.
    """
    return _batch("requeue_dead", keys, error, older_than, most, cursor)


def purge_dead(
    keys: Keys, *, error: str = "", older_than: float = 0, most: int = BATCH, cursor: str = ""
) -> Call[tuple[int, str]]:
    """Delete one batch of dead items, chosen as in ``requeue_dead``: how many, and the next cursor."""
    return _batch("purge_dead", keys, error, older_than, most, cursor)


def count_dead(
    keys: Keys, *, error: str = "", older_than: float = 0, cursor: str = ""
) -> Call[tuple[dict[str, int], str]]:
    """Count one batch of dead items, chosen as in ``requeue_dead``: how many of each group, and the next cursor."""
    return _count("count_dead", keys, error, older_than, cursor)


def dead_groups(keys: Keys, *, tracebacks: int = 20) -> Call[list[ErrorGroup]]:
    return Call(Script.named("dead_groups"), keys, (encode_int(tracebacks),), read_groups)


def run_now(keys: Keys, uids: Iterable[str]) -> Call[list[bool]]:
    """Make delayed items ready, also those that are scheduled."""
    return Call(Script.named("run_now"), keys, tuple(uid.encode() for uid in uids), read_flags)


def run_retrying(
    keys: Keys, *, error: str = "", older_than: float = 0, most: int = BATCH, cursor: str = ""
) -> Call[tuple[int, str]]:
    """Make one batch of the items ready that are retrying: how many, and the cursor for the next call.

    They are chosen as in ``requeue_dead``. older_than: only items whose last failure was so many seconds before the
    first call.
    """
    return _batch("run_retrying", keys, error, older_than, most, cursor)


def purge_retrying(
    keys: Keys, *, error: str = "", older_than: float = 0, most: int = BATCH, cursor: str = ""
) -> Call[tuple[int, str]]:
    """Delete one batch of the items that are retrying, chosen as in ``run_retrying``: how many, and the next cursor."""
    return _batch("purge_retrying", keys, error, older_than, most, cursor)


def count_retrying(
    keys: Keys, *, error: str = "", older_than: float = 0, cursor: str = ""
) -> Call[tuple[dict[str, int], str]]:
    """Count one batch of the items that are retrying, chosen as in ``run_retrying``: how many of each group."""
    return _count("count_retrying", keys, error, older_than, cursor)


def retry_groups(keys: Keys, *, tracebacks: int = 20) -> Call[list[ErrorGroup]]:
    """The items that are retrying, in groups by their errors."""
    return Call(Script.named("retry_groups"), keys, (encode_int(tracebacks),), read_groups)


def _batch(script: str, keys: Keys, error: str, older_than: float, most: int, cursor: str) -> Call[tuple[int, str]]:
    args = (*encode_choice(cursor, older_than, error), encode_int(most))
    return Call(Script.named(script), keys, args, read_swept)


def _count(script: str, keys: Keys, error: str, older_than: float, cursor: str) -> Call[tuple[dict[str, int], str]]:
    def read(reply: Any) -> tuple[dict[str, int], str]:
        following, *groups = reply
        return {name: int(number) for name, number in _pairs(groups).items()}, as_text(following)

    return Call(Script.named(script), keys, encode_choice(cursor, older_than, error), read)
