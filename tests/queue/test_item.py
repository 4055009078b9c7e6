"""Items as get returns them, and uids."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
import uuid

import pytest

from django_srq import Item
from django_srq.operations.delivery import Delivery
from django_srq.operations.identifiers import from_milliseconds, new_uid, uid_time

pytestmark = pytest.mark.versions

DELIVERY = Delivery(token="g1/7", deliveries=3, headers={"trace": "1"})


def test_unpacks_to_uid_and_payload():
    uid, payload = Item("u", "p")
    assert (uid, payload) == ("u", "p")


def test_is_equal_to_the_pair():
    assert Item("u", "p", DELIVERY) == ("u", "p")


def test_none_is_falsy_and_a_pair_of_nones():
    assert not Item()
    assert Item() == (None, None)


@pytest.mark.parametrize("payload", [None, b"", "", 0, [], False])
def test_is_truthy_with_a_falsy_payload(payload):
    assert Item("u", payload)


def test_has_the_facts_of_its_delivery():
    item = Item("u", "p", DELIVERY)
    assert (item.uid, item.payload, item.token, item.deliveries, item.headers) == ("u", "p", "g1/7", 3, {"trace": "1"})


@pytest.mark.parametrize("copied", [lambda item: pickle.loads(pickle.dumps(item)), copy.copy, copy.deepcopy])
def test_copies_keep_the_delivery(copied):
    item = copied(Item("u", ["p"], DELIVERY))
    assert item == ("u", ["p"])
    assert item.delivery == DELIVERY


def test_repr_does_not_show_the_payload():
    assert repr(Item("u", "secret", DELIVERY)) == "<Item u deliveries=3>"
    assert repr(Item()) == "<Item none>"


def test_enqueued_at_is_read_off_the_uid():
    before = dt.datetime.now(dt.UTC) - dt.timedelta(milliseconds=1)  # uids count whole milliseconds
    assert before <= Item(new_uid()).enqueued_at <= dt.datetime.now(dt.UTC)


def test_enqueued_at_prefers_the_time_that_the_server_recorded():
    put_at = from_milliseconds(1_000)
    assert Item(new_uid(), None, Delivery(put_at=put_at)).enqueued_at == put_at


@pytest.mark.parametrize("uid", [None, "order-17", "3f2b8e0c-3c86-4f0e-9a52-0d8f6c1d7b11"])
def test_enqueued_at_is_none_when_the_uid_has_no_time(uid):
    assert Item(uid).enqueued_at is None


def test_new_uid_is_a_version_7_uuid():
    uid = new_uid()
    parsed = uuid.UUID(uid)
    assert (str(parsed), parsed.version, parsed.variant) == (uid, 7, uuid.RFC_4122)


def test_new_uids_differ_and_sort_by_time():
    uids = [new_uid() for _ in range(1000)]
    assert len(set(uids)) == 1000
    assert [uid_time(uid) for uid in sorted(uids)] == [uid_time(uid) for uid in uids]


def test_uid_time_of_a_known_uid():
    # RFC 9562, A.6
    assert uid_time("017F22E2-79B0-7CC3-98C4-DC0C0C07398F") == from_milliseconds(0x017F22E279B0)


@pytest.mark.parametrize("milliseconds", [253402300800000, 1e300, float("inf")])
def test_moment_beyond_the_calendar_can_be_shown_in_any_time_zone(milliseconds):
    moment = from_milliseconds(milliseconds)
    assert moment.astimezone(dt.timezone(dt.timedelta(hours=14))).year == 9999


def test_uid_of_a_time_beyond_the_calendar_is_no_error():
    assert uid_time("ffffffff-ffff-7fff-bfff-ffffffffffff").year == 9999
