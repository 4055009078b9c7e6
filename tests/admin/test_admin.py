from __future__ import annotations

import json
import re
import socket
import time

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.core.management import call_command
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from django_srq import queues
from django_srq.admin import QueueStatusAdmin, admin
from django_srq.models import QueueStatus
from tests.support.server_clock import now

pytestmark = [pytest.mark.django_db, pytest.mark.versions]

URL = "/admin/django_srq/queuestatus/"
PERMISSIONS = ["view", "view_payload", "requeue", "drop", "purge", "pause", "release", "put"]
METHODS = ["get", "head", "post", "put", "delete", "options"]


def visitor(name: str) -> Client:
    """The browser of: anonymous, a user (no staff), a superuser, staff without permissions, or staff with only that."""
    browser = Client()
    if name != "anonymous":
        user = User.objects.create_user(name, is_staff=name != "user", is_superuser=name == "superuser")
        if name in PERMISSIONS:
            user.user_permissions.add(Permission.objects.get(content_type__app_label="django_srq", codename=name))
        browser.force_login(user)
    return browser


@pytest.fixture
def orders(settings, server_url, prefix):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": prefix, "HANDLER": "tests.support.handlers.note"}}
    settings.SRQ_ADMIN = {"TIMEOUT": 10}  # a busy machine must not count as a server that is down
    return queues["orders"]


def page(who: str = "view") -> str:
    response = visitor(who).get(URL)
    assert response.status_code == 200
    return response.content.decode()


def ours(html: str) -> str:
    """The part of the page that this package adds to the admin's."""
    (found,) = re.findall(r'<div class="srq">.*</footer>', html, re.DOTALL)
    return found


def words(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


# -- who may see it


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("who", ["anonymous", "user", "staff", "superuser", *PERMISSIONS])
def test_who_may_see_the_status_page(orders, who, method):
    response = getattr(visitor(who), method)(URL)
    if who in ("anonymous", "user"):
        assert (response.status_code, response.headers["Location"]) == (302, f"{reverse('admin:login')}?next={URL}")
    elif who not in ("superuser", "view"):
        assert response.status_code == 403
    elif method in ("get", "head"):
        assert response.status_code == 200
    else:
        assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["queue/orders/pause/", "queue/orders/purge/", "queue/orders/put/", "operation/"])
def test_actions_need_the_csrf_token(orders, path):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(User.objects.create_superuser("root"))
    assert browser.post(URL + path, {"confirmed": "1"}).status_code == 403
    assert visitor("superuser").post(URL + path, {"confirmed": "1"}).status_code != 403


@pytest.mark.parametrize("path", ["add/", "1/", "1/change/", "1/delete/", "1/history/", "autocomplete/"])
def test_the_admin_has_no_other_pages_of_the_model(orders, path):
    assert visitor("superuser").get(URL + path).status_code == 404


@pytest.mark.parametrize(("who", "listed"), [("view", True), ("superuser", True), ("put", False), ("staff", False)])
def test_the_index_lists_the_page_for_users_who_may_see_it(orders, who, listed):
    html = visitor(who).get(reverse("admin:index")).content.decode()
    assert (URL in html) == listed
    assert "/queuestatus/add/" not in html


def test_the_admin_offers_no_add_change_or_delete(orders):
    (model_admin,) = (one for model, one in admin.site._registry.items() if model is QueueStatus)
    assert isinstance(model_admin, QueueStatusAdmin)
    request = RequestFactory().get(URL)
    request.user = User.objects.create_superuser("root")
    assert model_admin.get_model_perms(request) == {"add": False, "change": False, "delete": False, "view": True}
    request.user = AnonymousUser()
    assert not any(model_admin.get_model_perms(request).values())


def test_the_permissions_of_the_model():
    found = Permission.objects.filter(content_type__app_label="django_srq").values_list("codename", flat=True)
    assert sorted(found) == sorted(PERMISSIONS)


def test_the_model_needs_no_migration():
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    assert QueueStatus._meta.db_table not in connection.introspection.table_names()


# -- what the overview says


def test_a_healthy_queue(orders):
    queues["orders"].put_many(range(3))
    queues["orders"].ack(queues["orders"].get(-1))
    html = page()
    assert "The queue orders is healthy." in words(html)
    (row,) = re.findall(r"<tbody>(.*)</tbody>", html, re.DOTALL)
    assert re.fullmatch(r"orders ok 2 0 0 0 \d s 0 0\.[56] 0\.2 growing", words(row))
    footer = words(html.partition('<footer class="srq-footer">')[2])
    assert re.search(r"(Valkey|Redis) [\d.]+, memory [\d.]+\s.B, read in [\d.]+ ms Updated", footer)


def test_a_stuck_queue(orders):
    orders.put(1)
    html = page()
    assert "Error orders is stuck: 1 ready, and no consumer was ever seen. Start one:" in words(html)
    assert "<code>manage.py srq_consume orders</code>" in html
    assert "well" not in words(ours(html))


def test_no_queues(settings):
    settings.SRQ_QUEUES = {}
    assert "No queue is configured" in words(page())


def test_misconfigured_queue(orders, settings):
    settings.SRQ_QUEUES = {**settings.SRQ_QUEUES, "wrong": {"URL": "http://user:secret@nowhere"}}
    html = page()
    assert "SRQ_QUEUES['wrong']['URL']: not a URL of a queue's server" in words(html).replace("&#x27;", "'")
    assert "wrong misconfigured unknown" in words(html)
    assert "orders ok" in words(html)
    assert "secret" not in html


def test_server_down(orders, settings, dead_port):
    address = f"127.0.0.1:{dead_port}"
    settings.SRQ_QUEUES = {**settings.SRQ_QUEUES, "mail": {"URL": f"redis://user:secret@{address}/3"}}
    html = page()
    said = words(html)
    assert f"Error The server {address}/3 is down, noticed just now:" in said
    assert "Connection refused. Queue: mail. Consumers wait, and continue when the server is back" in said
    assert "mail down unknown" in said
    assert "orders ok" in said
    assert "secret" not in html


def test_server_that_never_answers(orders, settings):
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        address = f"127.0.0.1:{hole.getsockname()[1]}"
        settings.SRQ_ADMIN = {"TIMEOUT": 2}  # seconds; enough for the server that answers
        settings.SRQ_QUEUES = {**settings.SRQ_QUEUES, "mail": {"URL": f"redis://{address}", "TIMEOUT": 600}}
        browser = visitor("view")
        started = time.monotonic()
        response = browser.get(URL)
        assert time.monotonic() - started < 60  # the page uses the TIMEOUT of SRQ_ADMIN, not the queue's
    assert response.status_code == 200
    said = words(response.content.decode())
    assert f"The server {address}/0 is down" in said
    assert "mail down unknown" in said
    assert "orders ok" in said


HOSTILE = "<script>alert(1)</script><b onclick=x style='y'>"


def test_texts_from_outside_are_escaped(orders, client, settings):
    settings.SRQ_QUEUES = {HOSTILE: next(iter(settings.SRQ_QUEUES.values())), "mail": {"URL": HOSTILE}}
    queue = queues[HOSTILE]
    queue.put(1)
    about = {"host": HOSTILE, "pid": HOSTILE, "seen": now(client) - 10**6}
    client.hset(queue.keys["consumers"], "c-1", json.dumps(about))
    stuck = page()
    assert "the last one: &lt;script&gt;alert(1)" in stuck
    queue.pause(HOSTILE, by=HOSTILE)
    paused = page("superuser")
    assert "by &lt;script&gt;alert(1)" in paused
    for html in (stuck, paused):
        assert "<script>" not in html
        assert "<b " not in html
        assert f">{HOSTILE.replace('<', '&lt;')[:10]}" in html


def test_numbers_are_localised(orders, settings):
    settings.USE_THOUSAND_SEPARATOR = True
    settings.LANGUAGE_CODE = "de"
    orders.put_many(range(1234))
    html = page()
    assert "<td>1.234</td>" in html
    assert "1.234 bereit" in html


# -- how the page is built


def test_no_inline_script_or_style(orders):
    orders.put(1)
    html = page()
    assert not re.search(r"<[^>]*\s(on\w+|style)\s*=", html)
    assert "<style" not in html
    assert "<script" not in ours(html)
    assert [tag for tag in re.findall(r"<script[^>]*>", html) if "srq" in tag] == [
        '<script src="/static/django_srq/status.js" defer>'
    ]
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", html))
    assert [link for link in re.findall(r"<link[^>]*>", html) if "srq" in link] == [
        '<link rel="stylesheet" href="/static/django_srq/status.css">'
    ]


@pytest.mark.parametrize("where", ["request", "context"])
def test_stylesheet_and_script_have_the_nonce_if_there_is_one(orders, where):
    request = RequestFactory().get(URL)
    request.user = User.objects.create_superuser("root")
    context = {}
    if where == "request":
        request.csp_nonce = "n0nce"
    else:
        context["csp_nonce"] = "n0nce"
    response = QueueStatusAdmin(QueueStatus, admin.site).changelist_view(request, context).render()
    html = response.content.decode()
    assert '<link rel="stylesheet" href="/static/django_srq/status.css" nonce="n0nce">' in html
    assert '<script src="/static/django_srq/status.js" defer nonce="n0nce">' in html


def test_breadcrumbs_have_the_markup_of_the_admin(orders):
    browser = visitor("superuser")
    shape = re.compile(r'<(\w+) class="breadcrumbs">(.*?)</\1>', re.DOTALL)
    (theirs,) = shape.findall(browser.get(reverse("admin:auth_group_add")).content.decode())
    (mine,) = shape.findall(browser.get(URL).content.decode())
    assert mine[0] == theirs[0]
    assert words(mine[1]).replace("&rsaquo;", "").split() == ["Home", "Queues", "Queue", "status"]
    assert re.findall(r"<(li[^>]*)>", mine[1]) == ["li", "li", 'li aria-current="page"'] * ("<li" in theirs[1])


def test_the_page_makes_no_more_queries_than_other_admin_pages(orders):
    browser = visitor("view")
    with CaptureQueriesContext(connection) as theirs:
        browser.get(reverse("admin:password_change"))
    with CaptureQueriesContext(connection) as mine:
        browser.get(URL)
    assert len(mine) <= len(theirs)


def test_the_page_of_twenty_queues_is_small(orders, settings):
    (options,) = settings.SRQ_QUEUES.values()
    settings.SRQ_QUEUES = {f"q{n}": {**options, "PREFIX": f"{options['PREFIX']}{n}"} for n in range(20)}
    assert len(page()) < 25_000
