"""The places where an item can be, and the state of the items in each.

In Lua: ``state_of`` in ``lua/shared/state.lua``, and ``place`` in ``lua/shared/lifecycle.lua``.
"""

from __future__ import annotations

from collections.abc import Container

# Place, by the name of its key: the state of the items there. A purge goes through the places in this order.
PLACES = {
    "queue": "ready",
    "returned": "ready",
    "priority": "ready",
    "delayed": "delayed",
    "dead": "dead",
    "holders": "in_flight",
}
PURGEABLE = ("ready", "delayed", "dead")  # the states whose items may be deleted
LISTS = ("queue", "ackbuf", "backup")
# Places in which saferedisqueue's consumers leave items; the next claim takes them over.
_LEGACY = {"ackbuf", "backup", "ackbuf_aging"}


def places_to_purge(state: str | None) -> tuple[str, ...]:
    """The places of a state; without one, of all states that are PURGEABLE."""
    states = PURGEABLE if state is None else (state,)
    return tuple(place for place, holds in PLACES.items() if holds in states)


def state_of(found: Container[str]) -> str | None:
    """The state of an item that was found under these keys; None: there is no item."""
    if "items" not in found:
        return None
    # The uid of an item that has left the list may still be there, so the list decides nothing.
    return next((PLACES[place] for place in ("holders", "delayed", "dead") if place in found), "ready")


def is_done(found: Container[str]) -> bool:
    """Whether a uid that was found under these keys counts as there although its item is gone."""
    return "uniques" in found and "items" not in found


def fault_of(found: set[str]) -> str:
    """What is wrong with an item that was found under these keys; empty when nothing is."""
    places = found & {*PLACES, *_LEGACY}
    if "retrying" in found and "delayed" not in found:
        return "is counted as retrying, and not delayed"
    if ("results" in found) != ("finished" in found):
        return "has a result that is never forgotten" if "results" in found else "has no result that could be forgotten"
    if "items" not in found:
        # A ghost: a uid on a list that claims drop on contact.
        return "" if not found or places <= set(LISTS) else "is no item but has a place"
    if len(places) == 0:
        return "is in no place"
    if len(places - {"queue"}) > 1:
        return "is in several places"
    if "holders" in places and "leases" not in found:
        return "is held without a lease"
    if "leases" in found and "holders" not in places:
        return "has a lease and no holder"
    return ""
