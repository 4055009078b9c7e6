"""Dead letters: counting, grouping, requeueing and purging dead items."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django_srq.operations.call import BATCH, Call, Keys
from django_srq.operations.encoding import encode_choice, encode_int
from django_srq.operations.replies import DeadGroup, _pairs, as_text, read_flags, read_groups, read_swept
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
    return Call(
        Script.named("requeue_dead"), keys, (*encode_choice(cursor, older_than, error), encode_int(most)), read_swept
    )


def purge_dead(
    keys: Keys, *, error: str = "", older_than: float = 0, most: int = BATCH, cursor: str = ""
) -> Call[tuple[int, str]]:
    """Delete one batch of dead items, chosen as in ``requeue_dead``: how many, and the next cursor."""
    return Call(
        Script.named("purge_dead"), keys, (*encode_choice(cursor, older_than, error), encode_int(most)), read_swept
    )


def count_dead(
    keys: Keys, *, error: str = "", older_than: float = 0, cursor: str = ""
) -> Call[tuple[dict[str, int], str]]:
    """Count one batch of dead items, chosen as in ``requeue_dead``: how many of each group, and the next cursor."""

    def read(reply: Any) -> tuple[dict[str, int], str]:
        following, *groups = reply
        return {name: int(number) for name, number in _pairs(groups).items()}, as_text(following)

    return Call(Script.named("count_dead"), keys, encode_choice(cursor, older_than, error), read)


def dead_groups(keys: Keys, *, tracebacks: int = 20) -> Call[list[DeadGroup]]:
    return Call(Script.named("dead_groups"), keys, (encode_int(tracebacks),), read_groups)
