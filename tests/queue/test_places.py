"""Which state an item is in, by the keys where it was found: one answer for states, audit, counts and purge."""

from __future__ import annotations

import pytest

from django_srq import operations
from django_srq.operations import STATES
from django_srq.queue.places import PLACES, PURGEABLE, fault_of, places_to_purge, state_of


def test_every_state_has_its_places():
    assert {*PLACES.values()} == {*STATES}
    assert {*PURGEABLE} == {*STATES} - {"in_flight"}
    assert {place for state in STATES for place in places_to_purge(state)} == {*PLACES}
    assert {*places_to_purge(None)} == {*PLACES} - {"holders"}


@pytest.mark.parametrize("place", PLACES)
def test_an_item_in_a_single_place_has_its_state_and_no_fault(place):
    found = {"items", "headers", place, *(["leases"] if place == "holders" else [])}
    assert state_of(found) == PLACES[place]
    assert fault_of(found) == ""


@pytest.mark.parametrize("place", [*PLACES, "leases", "headers"])
def test_without_an_item_there_is_no_state(place):
    assert state_of({place}) is None


@pytest.mark.parametrize("place", ["holders", "delayed", "dead"])
def test_a_uid_that_is_left_on_the_list_decides_nothing(place):
    assert state_of({"items", "queue", place}) == PLACES[place]


def test_python_and_lua_agree_about_the_state(queue, client):
    """The state that a put answers with, of an item that is there already, is what ``states`` says of it."""
    queue.put("x", uid="in_flight")
    held = queue.get(-1)
    queue.put("x", uid="returned")
    queue.release(queue.get(-1))
    queue.put("x", uid="queue")
    queue.put("x", uid="priority", priority=5)
    queue.put("x", uid="delayed", delay=60)
    queue.put("x", uid="dead")
    client.lrem(queue.keys["queue"], 0, "dead")
    client.zadd(queue.keys["dead"], {"dead": 1})
    uids = [held.uid, "returned", "queue", "priority", "delayed", "dead"]
    places = queue.link.call(operations.find(queue.keys, uids, deep=True), queue=queue.alias)
    assert [state_of(found) for found in places] == queue.states(*uids)
    _, calls = zip(*(queue.prepare("x", uid=uid) for uid in uids), strict=True)
    assert queue.states(*uids) == [queue.send_puts(call, [uid])[0] for call, uid in zip(calls, uids, strict=True)]
