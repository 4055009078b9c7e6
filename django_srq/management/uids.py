"""Items that a command was given by their uids: what it says of those that are not there."""

from __future__ import annotations


def unknown(uid: str) -> str:
    return f"no item {uid!r}: it was handled or deleted, or was never put"
