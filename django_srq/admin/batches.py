"""What is done to many items: in batches, each a request of its own, so that none is long and it can be stopped.

The state of an operation travels, signed, in the page that shows its progress: nothing is kept anywhere, and a batch
that is sent twice does no harm, because each item is moved only from the state in which the operation found it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from django.core import signing

from django_srq import operations
from django_srq.operations import DeliveryRef, ItemView
from django_srq.operations.identifiers import from_milliseconds, new_uid
from django_srq.registry import Queue
from django_srq.status.browse import LARGEST_IN_LIST, NEWEST_FIRST, matches
from django_srq.transport.slots import Slot

MOST = 1000  # items in a batch
MOST_CHOSEN = 500  # items of a selection: Django takes no form with more than 1,000 fields
MOST_SEARCHED = 200  # items in a batch that have to be read whole
SALT = "django_srq.bulk"
VALID = 1800  # seconds from one batch to the next; a slot, by which a beginning is known, has an hour
STATES = {  # what each action can be done to
    "requeue": ("dead",),
    "drop": ("dead", "delayed", "ready"),
    "release": ("in_flight",),
    "purge": ("ready", "delayed", "dead", "all"),
}
# Where purge looks, and the state of what is there; "queue" is the list, which has a way of its own.
_PURGED = {"ready": ("queue", "returned", "priority"), "delayed": ("delayed",), "dead": ("dead",)}
_HOLDS = {"returned": "ready", "priority": "ready", "delayed": "delayed", "dead": "dead"}


@dataclass(frozen=True)
class Selection:
    """The items that an action is about: those of a state, of a group of dead ones, those with a text."""

    action: str
    alias: str
    state: str
    group: str = ""
    text: str = ""
    payloads: bool = False  # whether the text is looked for in payloads

    @property
    def places(self) -> Sequence[str]:
        if self.action != "purge":
            return (self.state,)
        states = _PURGED if self.state == "all" else (self.state,)
        return tuple(place for state in states for place in _PURGED[state])


@dataclass(frozen=True)
class BulkAction:
    scope: Selection
    total: int  # items, as counted when it began
    until: int  # ms: what became so later is spared
    place: int = 0  # index in the scope's places
    anchor: str = "0"
    marker: str = ""
    done: int = 0
    gone: int = 0  # found, and then not there any more
    looked: int = 0
    entry: int | None = None  # the LogEntry
    over: bool = False

    @classmethod
    def begin(cls, scope: Selection, total: int, at: dt.datetime) -> BulkAction:
        return cls(scope, total, round(at.timestamp() * 1000), marker=new_uid())

    @classmethod
    def unsigned(cls, text: str) -> BulkAction:
        """From what ``signed`` made; signing.BadSignature when it is not ours, or too old."""
        data: dict[str, Any] = signing.loads(text, salt=SALT, max_age=VALID)
        return cls(**{**data, "scope": Selection(**data["scope"])})

    @property
    def signed(self) -> str:
        return signing.dumps(asdict(self), salt=SALT, compress=True)

    @property
    def percent(self) -> int:
        return 100 if self.over else min(99, 100 * (self.done + self.gone) // max(1, self.total))


def carry_on(operation: BulkAction, queue: Queue) -> BulkAction:
    """One batch: from as many places as it takes to have looked at enough items, or at all."""
    enough = operation.looked + MOST
    while not operation.over and operation.looked < enough:
        operation = _part(operation, queue, enough - operation.looked)
    return operation


def _part(operation: BulkAction, queue: Queue, most: int) -> BulkAction:
    place = operation.scope.places[operation.place]
    after = _purge_list(operation, queue) if place == "queue" else _batch(operation, queue, place, most)
    if after.anchor:
        return after
    following = operation.place + 1
    if following == len(operation.scope.places):
        return replace(after, over=True)
    return replace(after, place=following, anchor="0")


def carry_out(action: str, queue: Queue, state: str, chosen: Sequence[DeliveryRef]) -> list[bool]:
    """Do it to these items, at most a batch of them; per item whether it was there to be done."""
    keys = queue.keys
    if not chosen:
        return []
    if action == "requeue":
        call = operations.requeue(keys, [held.uid for held in chosen])
    elif action == "release":
        call = operations.release(keys, chosen)
    else:
        call = operations.drop(keys, chosen, state=state)
    return queue.link.call(call, queue=queue.alias)


def _batch(operation: BulkAction, queue: Queue, place: str, most: int) -> BulkAction:
    scope = operation.scope
    call = operations.list_items(
        queue.keys,
        place,
        anchor=operation.anchor,
        count=most,
        look=min(MOST_SEARCHED, most) if scope.text else most,
        newest=place in NEWEST_FIRST,
        largest=LARGEST_IN_LIST if scope.payloads else 0,
        brief=not scope.text and place not in ("delayed", "priority"),  # when those were put, their headers say
        group=scope.group,
    )
    (listing,) = queue.link.look([(queue.alias, call)], timeout=queue.link.timeout)
    if isinstance(listing, Exception):
        raise listing
    until = from_milliseconds(operation.until)
    chosen = [one for one in listing.items if _existed(one, until) and _fits(scope, queue, one)]
    flags = carry_out(scope.action, queue, _HOLDS.get(place, place), [_named(one) for one in chosen])
    return replace(
        operation,
        anchor=listing.anchor,
        done=operation.done + sum(flags),
        gone=operation.gone + len(flags) - sum(flags),
        looked=operation.looked + listing.looked,
    )


def _named(one: ItemView) -> DeliveryRef:
    return one.holder or DeliveryRef(one.uid, number=one.delivery.number)


def _existed(one: ItemView, until: dt.datetime) -> bool:
    """Whether it was in its state before the operation began, as far as that is known."""
    delivery = one.delivery
    since = {"dead": delivery.when, "in_flight": one.claimed_at}.get(delivery.state, delivery.put_at)
    return since is None or since <= until


def _fits(scope: Selection, queue: Queue, one: ItemView) -> bool:
    return not scope.text or matches(queue.config, one, scope.text, payloads=scope.payloads)


def _purge_list(operation: BulkAction, queue: Queue) -> BulkAction:
    start = operation.anchor == "0"
    call = operations.purge(queue.keys, marker=operation.marker, start=start)
    # Begun again, as after a lost reply, it has its first outcome again: another marker would come behind later items.
    slot = Slot(f"purge:{operation.marker}".encode(), 1) if start else None
    more, gone = queue.link.call(call, queue=queue.alias, slot=slot)
    looked = operation.looked + (MOST if more else gone)
    return replace(operation, anchor="list" if more else "", done=operation.done + gone, looked=looked)
