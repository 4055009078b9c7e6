"""The pages of delayed items: those that wait after an error, and those that are scheduled; the errors of an item."""

from __future__ import annotations

import html as html_module
import re

import pytest
from django.contrib.admin.models import LogEntry

from django_srq import RetryLater
from django_srq.status import browse
from tests.admin.test_admin import URL, visitor
from tests.admin.test_pages import QUEUE, confirmed, orders, outcome, read, said, user_with

pytestmark = [pytest.mark.django_db, pytest.mark.versions]
__all__ = ["orders"]  # a fixture


def fail(queue, error: Exception, uid: str) -> None:
    """Deliver the item, which must be next, and fail it for an hour."""
    item = queue.get(-1)
    assert item.uid == uid
    queue.fail(item, error=error, delay=3600)


def retrying_item(queue, error: Exception) -> str:
    uid = queue.put({"order": 1}, priority=100)
    fail(queue, error, uid)
    return uid


def listed(html: str) -> list[str]:
    return re.findall(r'class="srq-uid" href="[^"]*item/\?uid=([\w-]{36})', html)


def group_of(queue, name: str) -> str:
    (group,) = {known.name for known in browse.groups_of(queue.config, "delayed") if known.name.startswith(name)}
    return group


def test_retrying_items_are_told_apart_from_scheduled_ones(orders):
    retrying = [retrying_item(orders, TimeoutError("too slow")) for _ in range(2)]
    scheduled = orders.put({"order": 2}, delay=60)
    postponed = orders.put({"order": 3}, priority=100)
    fail(orders, RetryLater(3600, "not yet"), postponed)
    root = visitor("superuser")
    html = read(root, f"{QUEUE}?state=delayed")
    assert "After an error: 2, scheduled: 2." in html
    assert "TimeoutError: too slow" in html
    assert sorted(listed(html)) == sorted([*retrying, scheduled, postponed])
    (row,) = re.findall(rf"<tr>(?:(?!<tr>).)*?uid={scheduled}.*?</tr>", html, re.DOTALL)
    assert ">scheduled</td>" in row
    (link,) = re.findall(r'href="([^"]*group=TimeoutError[^"]*)">Show', html)
    assert sorted(listed(read(root, html_module.unescape(link)))) == sorted(retrying)
    assert 'title="After an error: 2, scheduled: 2."' in read(root, URL)


def test_run_selected_items_now(orders):
    scheduled, other = (orders.put({"order": n}, delay=60) for n in range(2))
    root = visitor("superuser")
    assert "ready now, before its time?" in said(root, f"{QUEUE}run_now/?state=delayed&uid={scheduled}")
    response = confirmed(root, "run_now", state="delayed", uid=[scheduled])
    assert outcome(response) == "orders: 1 item is ready."
    assert [item.uid for item in orders.items("ready")] == [scheduled]
    assert [item.uid for item in orders.items("delayed")] == [other]
    assert LogEntry.objects.get().change_message == f"Run now: 1 item (delayed): {scheduled}"


def test_run_a_group_now(orders):
    chosen = [retrying_item(orders, LookupError("no customer")) for _ in range(3)]
    spared = [retrying_item(orders, TimeoutError("too slow")), orders.put({"order": 2}, delay=60)]
    group = group_of(orders, "LookupError")
    root = visitor("superuser")
    asked = said(root, f"{QUEUE}run_now/?state=delayed&group={group}")
    assert "Make 3 delayed items of orders ready now, before their time?" in asked
    assert group in asked
    response = confirmed(root, "run_now", state="delayed", group=group)
    assert outcome(response) == "orders: 3 items are ready."
    assert sorted(item.uid for item in orders.items("ready")) == sorted(chosen)
    assert sorted(item.uid for item in orders.items("delayed")) == sorted(spared)
    assert LogEntry.objects.get().change_message == f"Run now: 3 items (delayed) of {group}"


def test_not_all_delayed_items_can_be_run_now(orders):
    orders.put({"order": 1}, delay=60)
    root = visitor("superuser")
    assert "No items selected." in said(root, f"{QUEUE}run_now/?state=delayed&everything=1", 400)
    assert "run_now/?state=delayed&amp;everything" not in read(root, f"{QUEUE}?state=delayed")


def test_only_users_who_may_requeue_may_run_items_now(orders):
    uid = orders.put({"order": 1}, delay=60)
    assert "run_now" in read(user_with("view", "requeue"), f"{QUEUE}?state=delayed")
    viewer = user_with("view", "drop")
    assert "run_now" not in read(viewer, f"{QUEUE}?state=delayed")
    assert viewer.get(f"{QUEUE}run_now/?state=delayed&uid={uid}").status_code == 403


def test_an_item_shows_its_last_errors(orders):
    uid = orders.put({"order": 1})
    for n in range(6):
        orders.run_now(uid)
        fail(orders, ValueError(f"error number {n}, password=hunter{n}"), uid)
    html = read(visitor("superuser"), f"{QUEUE}item/?uid={uid}")
    assert "error number 0" not in html
    last, earlier = html.split("<h2>Earlier errors</h2>")
    assert "error number 5" in last
    assert re.findall(r"<summary>ValueError: error number (\d)", earlier) == ["4", "3", "2", "1"]
    assert html.count("Traceback") == 0  # raised nowhere
    assert "hunter" not in html
    assert re.findall(r"delivery (\d) failed: ValueError", html) == ["2", "3", "4", "5", "6"]
