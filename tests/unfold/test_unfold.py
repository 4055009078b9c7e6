"""Every page is complete under django-unfold."""

from __future__ import annotations

import re

import pytest

from django_srq import queues
from tests.admin.test_admin import URL, visitor, words
from tests.browser import showcase

pytestmark = pytest.mark.django_db


@pytest.fixture
def scene(settings, server_url, prefix, client):
    settings.SRQ_QUEUES = showcase.options(server_url, prefix)
    showcase.fill(client, queues)


def test_these_tests_run_under_unfold(scene):
    html = visitor("superuser").get(URL).content.decode()
    assert "unfold/css/styles.css" in html


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "invoices is stuck"),
        ("queue/orders/", "next in line"),
        ("queue/orders/?state=in_flight", "worker-1.example.org"),
        ("queue/orders/?state=delayed", "Due in"),
        ("queue/orders/?state=dead", "no such customer: 4711"),
        ("queue/orders/?state=dead&all=1", "Dead for"),
        ("queue/orders/item/?uid=order-1", "Timeline"),
        ("queue/orders/pause/", "Pause orders"),
        ("queue/orders/purge/?state=all&everything=1", "type the name of the queue"),
        ("consumers/", "busy"),
        ("activity/", "No actions yet."),
        ("find/?uid=x", "No queue has an item x"),
    ],
)
def test_each_page_is_complete(scene, path, says):
    html = visitor("superuser").get(URL + path).content.decode()
    (mine,) = re.findall(r'<div class="srq">.*', html, re.DOTALL)
    assert says in words(mine)
    assert "django_srq/status.css" in html
    assert "django_srq/status.js" in html
