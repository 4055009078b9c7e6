"""Cancelling tasks in the status view. Needs Django 6.0, as a result names the exception of a cancelled task."""

from __future__ import annotations

import html as html_module
import re

import pytest
from django.contrib.admin.models import LogEntry

from tests.admin.test_admin import URL, visitor
from tests.admin.test_pages import said
from tests.admin.test_tasks import MAIL, confirmed, failed, mail, task

pytestmark = [pytest.mark.django_db, pytest.mark.versions]
__all__ = ["mail"]  # a fixture


def test_tasks_that_wait_are_cancelled_and_their_results_say_so(mail):
    ready, later, running = mail.put(task(1)), mail.put(task(2), delay=60), mail.put(task(3), priority=9)
    assert mail.get(-1).uid == running
    root = visitor("superuser")
    assert "Cancel 1 task of mail? It will not run, and its result says so." in said(
        root, f"{MAIL}cancel/?state=ready&uid={ready}"
    )
    assert "Back" in said(root, f"{MAIL}cancel/?state=ready&uid={ready}")
    for state, uid in (("ready", ready), ("delayed", later)):
        confirmed(root, "cancel", state, uid)
    response = root.post(f"{MAIL}cancel/", {"state": "ready", "uid": running, "confirmed": "1"}, follow=True)
    assert "0 tasks were cancelled. 1 of 1 was already gone." in html_module.unescape(response.content.decode())
    assert mail.counts() == {"ready": 0, "in_flight": 1, "delayed": 0, "dead": 0}
    text = said(root, f"{MAIL}item/?uid={ready}")
    assert "Status FAILED" in text
    assert "TaskCancelled" in text
    assert "superuser: Cancelled 1 item (ready)" in text
    assert "delivery 0" not in text
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")][:2] == [
        f"Cancelled 1 item (ready): {ready}",
        f"Cancelled 1 item (delayed): {later}",
    ]


def test_many_tasks_are_cancelled_in_batches(mail):
    mail.put_many([task(n) for n in range(450)], delay=3600)
    sent = {"state": "delayed", "everything": "1", "confirmed": "1"}
    page = visitor("superuser")
    response = page.post(f"{MAIL}cancel/", sent)
    assert mail.counts()["delayed"] == 250
    for left in (50, 0):
        (operation,) = re.findall(r'name="operation" value="([^"]+)"', response.content.decode())
        response = page.post(f"{URL}operation/", {"operation": html_module.unescape(operation)})
        assert (mail.counts()["delayed"], mail.snapshot().results) == (left, 450 - left)
    (entry,) = LogEntry.objects.all()
    assert entry.change_message == "Cancelled 450 items (delayed)"


def test_all_tasks_of_an_error_are_cancelled(mail):
    for name in ("shop.tasks.welcome", "shop.tasks.welcome", "shop.tasks.remind"):
        failed(mail, task(1, name=name), ValueError("no"), bury=False)
    sent = {"state": "delayed", "group": "shop.tasks.welcome: ValueError", "everything": "1", "confirmed": "1"}
    visitor("superuser").post(f"{MAIL}cancel/", sent)
    assert (mail.counts()["delayed"], mail.snapshot().results) == (1, 2)
