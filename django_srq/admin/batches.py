"""Actions on many items, in batches: each batch is a short request of its own, and the user can stop after any of them.

The progress of an action is stored nowhere: it travels, signed, in the page that shows it. A batch that is sent twice
does no harm, because an item is changed only while it is in the state in which the batch found it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from django.core import signing

from django_srq import operations
from django_srq.admin import tasks
from django_srq.operations import DeliveryRef, ItemView
from django_srq.operations.identifiers import from_milliseconds, new_uid
from django_srq.queue import maintenance
from django_srq.queue.places import PLACES, PURGEABLE, places_to_purge
from django_srq.registry import Queue
from django_srq.status.browse import LARGEST_IN_LIST, NEWEST_FIRST, matches
from django_srq.transport.sansio import run
from django_srq.transport.slots import Slot

MOST = 1000  # items in a batch
MOST_CHOSEN = 500  # items selected by checkboxes: Django refuses a form with more than 1,000 fields
MOST_CANCELLED = 200  # tasks in a batch, as each is cancelled by a call of its own
MOST_SEARCHED = 200  # items in a batch of a search, which has to read each of them whole
SALT = "django_srq.bulk"
VALID = 1800  # seconds from one batch to the next; shorter than the hour for which _purge_list's slot is kept
TAKES = {  # action: the states of the items that it takes
    "requeue": ("dead",),
    "run_now": ("delayed",),
    "run_again": ("done",),
    "cancel": ("ready", "delayed"),
    "drop": ("dead", "delayed", "ready"),
    "release": ("in_flight",),
    "purge": (*PURGEABLE, "all"),
}
OF_TASKS = frozenset({"run_again", "cancel"})  # the actions that only queues of tasks have


@dataclass(frozen=True)
class Selection:
    """The items that an action takes: all of a state, only those of an error, or only those that contain a text."""

    action: str
    alias: str
    state: str
    group: str = ""
    text: str = ""
    payloads: bool = False  # whether the text is searched in payloads too

    @property
    def places(self) -> Sequence[str]:
        if self.action != "purge":
            return (self.state,)
        return places_to_purge(None if self.state == "all" else self.state)


@dataclass(frozen=True)
class BulkAction:
    scope: Selection
    total: int  # items, as counted when it began
    until: int  # ms: items that came into their state later are spared
    place: int = 0  # index in the scope's places
    anchor: str = "0"  # where in this place the next batch begins
    marker: str = ""  # of purge.lua, on the list: the items behind it came later
    done: int = 0
    gone: int = 0  # items that were found, but had left their state before they could be changed
    looked: int = 0  # items
    entry: int | None = None  # primary key of the LogEntry
    over: bool = False

    @classmethod
    def begin(cls, scope: Selection, total: int, at: dt.datetime) -> BulkAction:
        return cls(scope, total, round(at.timestamp() * 1000), marker=new_uid())

    @classmethod
    def unsigned(cls, text: str) -> BulkAction:
        """Restore an action from the text that ``signed`` made. Raises signing.BadSignature for a forged or old one."""
        data: dict[str, Any] = signing.loads(text, salt=SALT, max_age=VALID)
        return cls(**{**data, "scope": Selection(**data["scope"])})

    @property
    def signed(self) -> str:
        return signing.dumps(asdict(self), salt=SALT, compress=True)

    @property
    def percent(self) -> int:
        return 100 if self.over else min(99, 100 * (self.done + self.gone) // max(1, self.total))


def carry_on(bulk: BulkAction, queue: Queue) -> BulkAction:
    """Carry out one batch: look at so many items, from as many places as that takes, or at all that are left."""
    enough = bulk.looked + (MOST_CANCELLED if bulk.scope.action == "cancel" else MOST)
    while not bulk.over and bulk.looked < enough:
        bulk = _part(bulk, queue, enough - bulk.looked)
    return bulk


def _part(bulk: BulkAction, queue: Queue, most: int) -> BulkAction:
    place = bulk.scope.places[bulk.place]
    after = _purge_list(bulk, queue) if place == "queue" else _batch(bulk, queue, place, most)
    if after.anchor:
        return after
    following = bulk.place + 1
    if following == len(bulk.scope.places):
        return replace(after, over=True)
    return replace(after, place=following, anchor="0")


def carry_out(action: str, queue: Queue, state: str, chosen: Sequence[DeliveryRef]) -> list[bool]:
    """Carry out an action on these items, at most one batch. Returns for each item whether it was still there."""
    keys = queue.keys
    if not chosen:
        return []
    if action == "run_again":
        return tasks.run_again(queue, [ref.uid for ref in chosen])
    if action == "cancel":
        return tasks.cancel(queue, [ref.uid for ref in chosen])
    if action == "requeue":
        call = operations.requeue(keys, [ref.uid for ref in chosen])
    elif action == "run_now":
        call = operations.run_now(keys, [ref.uid for ref in chosen])
    elif action == "release":
        call = operations.release(keys, chosen)
    else:
        call = operations.drop(keys, chosen, state=state, purges=action == "purge")
    return queue.link.call(call, queue=queue.alias)


def _batch(bulk: BulkAction, queue: Queue, place: str, most: int) -> BulkAction:
    scope = bulk.scope
    call = operations.list_items(
        queue.keys,
        place,
        anchor=bulk.anchor,
        count=most,
        look=min(MOST_SEARCHED, most) if scope.text else most,
        newest=place in NEWEST_FIRST,
        largest=LARGEST_IN_LIST if scope.payloads else 0,
        # The headers of these say when they were put.
        detail="last" if scope.text or place in ("delayed", "priority") else "none",
        group=scope.group,
    )
    (listing,) = queue.link.look([(queue.alias, call)], timeout=queue.link.timeout)
    if isinstance(listing, Exception):
        raise listing
    until = from_milliseconds(bulk.until)
    chosen = [item for item in listing.items if _existed(item, until) and _fits(scope, queue, item)]
    flags = carry_out(scope.action, queue, PLACES.get(place, place), [_named(item) for item in chosen])
    return replace(
        bulk,
        anchor=listing.anchor,
        done=bulk.done + sum(flags),
        gone=bulk.gone + len(flags) - sum(flags),
        looked=bulk.looked + listing.looked,
    )


def _named(item: ItemView) -> DeliveryRef:
    return item.holder or DeliveryRef(item.uid, number=item.delivery.number)


def _existed(item: ItemView, until: dt.datetime) -> bool:
    """Whether the item was in its state before the action began; True when that is not known."""
    delivery = item.delivery
    since = {"dead": delivery.when, "in_flight": item.claimed_at}.get(delivery.state, delivery.put_at)
    return since is None or since <= until


def _fits(scope: Selection, queue: Queue, item: ItemView) -> bool:
    return not scope.text or matches(queue.config, item, scope.text, payloads=scope.payloads)


def _purge_list(bulk: BulkAction, queue: Queue) -> BulkAction:
    start = bulk.anchor == "0"
    # If the first call is repeated, as after a lost reply, its slot gets it the first outcome again. Carried out anew,
    # it would put a second marker on the list, behind items that came after the first one: these would be deleted.
    slot = Slot(f"purge:{bulk.marker}".encode(), 1) if start else None
    more, gone = run(maintenance.purge_list(queue, bulk.marker, start=start, slot=slot))
    looked = bulk.looked + (MOST if more else gone)
    return replace(bulk, anchor="list" if more else "", done=bulk.done + gone, looked=looked)
