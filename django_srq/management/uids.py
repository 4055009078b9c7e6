"""Items that a command was given by their uids: what it says of those that are not there, or in another state."""

from __future__ import annotations

from collections.abc import Sequence


def unknown(uid: str) -> str:
    return f"no item {uid!r}: it is settled, was dropped, or never was there"


def elsewhere(uids: Sequence[str], states: Sequence[str | None], wanted: str) -> list[str]:
    """A line for each uid whose item is not in the wanted state."""
    return [
        unknown(uid) if state is None else f"item {uid!r} is {state.replace('_', ' ')}, not {wanted}"
        for uid, state in zip(uids, states, strict=True)
        if state != wanted
    ]
