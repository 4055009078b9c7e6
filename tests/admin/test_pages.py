"""The pages beside the overview: who may see them, what they say, what their buttons do."""

from __future__ import annotations

import html as html_module
import re
import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_srq import operations, queues
from django_srq.admin import batches
from django_srq.operations import DeliveryRef
from django_srq.status import access, browse
from django_srq.transport import budget
from django_srq.transport.link import Link
from django_srq.transport.sync_pool import SyncPool
from tests.admin.test_admin import PERMISSIONS, URL, visitor, words
from tests.support.servers import Server
from tests.support.waiting import PATIENT

pytestmark = [pytest.mark.django_db, pytest.mark.versions]

QUEUE = f"{URL}queue/orders/"
HOSTILE = "<script>alert(1)</script><b onclick=x style='y'>"


@pytest.fixture
def orders(settings, server_url, prefix):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": prefix, "HANDLER": "tests.support.handlers.note"}}
    settings.SRQ_ADMIN = {"TIMEOUT": 10}  # a busy machine must not count as a server that is down
    return queues["orders"]


def user_with(*permissions: str) -> Client:
    browser = Client()
    user = User.objects.create_user("-".join(permissions) or "none", is_staff=True)
    for name in permissions:
        user.user_permissions.add(Permission.objects.get(content_type__app_label="django_srq", codename=name))
    browser.force_login(user)
    return browser


def dead_item(queue, error="broken", payload=1) -> str:
    uid = queue.put(payload, priority=100)
    item = queue.get(-1)
    assert item.uid == uid
    failed = error if isinstance(error, Exception) else ValueError(error)
    from django_srq.queue import failure

    call = operations.fail(queue.keys, DeliveryRef(uid, item.token), error=failure.describe(failed), bury=True)
    queue.link.call(call, queue="q")
    return uid


def read(browser: Client, url: str, code: int = 200) -> str:
    response = browser.get(url)
    assert response.status_code == code, response.content.decode()[:500]
    return response.content.decode()


def said(browser: Client, url: str, code: int = 200) -> str:
    return html_module.unescape(words(read(browser, url, code)))


# -- who may do what: each kind of user, every URL, GET and POST

ACTIONS = {"requeue": "requeue", "run_now": "requeue", "drop": "drop", "release": "release", "purge": "purge",
           "pause": "pause", "resume": "pause", "put": "put"}  # fmt: skip
FITTING = {"requeue": "state=dead&everything=1", "drop": "state=dead&everything=1", "purge": "state=all&everything=1",
           "run_now": "state=delayed&uid=x", "release": "state=in_flight&everything=1"}  # fmt: skip
LOOKS = {
    "": "",
    "consumers/": "",
    "activity/": "",
    "find/": "uid=x",
    "queue/orders/": "",
    "queue/orders/item/": "uid=x",
}


def allowed(who: str, permission: str) -> bool:
    return who == "superuser" or who == permission == "view"


@pytest.mark.parametrize("who", ["anonymous", "user", "staff", "superuser", *PERMISSIONS])
def test_each_user_sees_and_does_only_what_the_permissions_allow(orders, who):
    browser = visitor(who)
    orders.put(1)
    for path, query in LOOKS.items():
        for fragment in ({}, {"X-SRQ-Live": "1"}):
            code = browser.get(f"{URL}{path}?{query}", headers=fragment).status_code
            if who in ("anonymous", "user"):
                assert code == 302
            else:
                found = 404 if "item" in path else 200
                assert code == (found if allowed(who, "view") else 403), (path, who)
        code = browser.post(URL + path).status_code
        assert code == (302 if who in ("anonymous", "user") else 405 if allowed(who, "view") else 403), (path, who)
    for action, permission in ACTIONS.items():
        for method in (browser.get, browser.post):
            url = f"{QUEUE}{action}/"
            sent = dict(part.split("=") for part in FITTING.get(action, "a=b").split("&"))
            code = method(url, sent).status_code
            expected = 302 if who in ("anonymous", "user") else 200 if who == "superuser" else 403
            assert code == expected, (action, who, permission)
    code = browser.post(f"{URL}operation/").status_code
    assert code == (302 if who in ("anonymous", "user") else 400 if allowed(who, "view") else 403)
    assert orders.counts() == {"ready": 1, "in_flight": 0, "delayed": 0, "dead": 0}
    assert orders.snapshot().paused is None


@pytest.mark.parametrize("permission", PERMISSIONS[2:])
def test_each_permission_opens_its_own_actions(orders, permission):
    """It needs the permission ``view`` as well."""
    browser = user_with("view", permission)
    for action, needed in ACTIONS.items():
        sent = dict(part.split("=") for part in FITTING.get(action, "a=b").split("&"))
        for method in (browser.get, browser.post):
            assert method(f"{QUEUE}{action}/", sent).status_code == (200 if needed == permission else 403), action


def test_each_action_is_offered_to_users_who_may_use_it(orders):
    dead_item(orders)
    for permission, button in (("requeue", "Requeue"), ("drop", "Drop"), ("purge", "Purge"), ("pause", "Pause"),
                               ("put", "Put an item")):  # fmt: skip
        html = read(user_with("view", permission), QUEUE + "?state=dead")
        assert [name for name in ("requeue", "drop", "purge", "pause", "put") if f"orders/{name}/" in html] == [
            permission
        ]
        assert button in html
    assert 'srq-button"' not in read(user_with("view"), QUEUE + "?state=dead")


def test_read_only_allows_no_action(orders, settings):
    settings.SRQ_ADMIN = {"TIMEOUT": 10, "READ_ONLY": True}
    uid = dead_item(orders)
    root = visitor("superuser")
    html = read(root, QUEUE + "?state=dead")
    assert "Read-only: actions are disabled." in html
    assert 'srq-button"' not in html
    for action in ACTIONS:
        sent = {"state": "dead", "uid": uid, "confirmed": "1", "payload": "1", "name": "orders", "everything": "1"}
        assert root.post(f"{QUEUE}{action}/", sent).status_code == 403
    assert orders.counts()["dead"] == 1


def only_looking_at_orders(request, action, alias):
    return alias == "orders" and (action in ("view", "pause") or request.user.username == "boss")


def test_a_rule_of_the_project_for_single_queues(orders, settings):
    options = settings.SRQ_QUEUES["orders"]
    settings.SRQ_QUEUES = {"orders": options, "secret": {**options, "PREFIX": options["PREFIX"] + "s"}}
    settings.SRQ_ADMIN = {"TIMEOUT": 10, "ALLOW": "tests.admin.test_pages.only_looking_at_orders"}
    uid = queues["secret"].put(1)
    root = visitor("superuser")
    assert "secret" not in read(root, URL)
    assert root.get(f"{URL}queue/secret/").status_code == 403
    assert root.get(f"{URL}queue/secret/item/?uid={uid}").status_code == 403
    assert root.get(f"{URL}queue/secret/pause/").status_code == 403
    assert "No queue has an item" in said(root, f"{URL}find/?uid={uid}")
    assert root.get(f"{QUEUE}pause/").status_code == 200
    assert root.get(f"{QUEUE}purge/?state=all&everything=1").status_code == 403
    boss = Client()
    boss.force_login(User.objects.create_superuser("boss"))
    assert boss.get(f"{QUEUE}purge/?state=all&everything=1").status_code == 200


@pytest.mark.parametrize("rule", ["allows_by_wrapper", "allows_by_generator", "allows_one"])
def test_only_true_from_a_rule_allows_access(orders, settings, caplog, rule):
    """A coroutine that nobody awaits is truthy, but not True."""
    settings.SRQ_ADMIN = {"TIMEOUT": 10, "ALLOW": f"tests.support.odd_handlers.{rule}"}
    access._log_once.cache_clear()
    assert visitor("superuser").get(QUEUE).status_code == 403
    assert caplog.text.count("returned neither True nor False") == 1


def test_an_async_rule_is_reported(orders, settings):
    settings.SRQ_ADMIN = {"TIMEOUT": 10, "ALLOW": "tests.support.odd_handlers.allows"}
    assert "is not to be an async def" in said(visitor("superuser"), URL, 503)


def test_a_rule_that_cannot_be_imported_is_reported_on_every_page(orders, settings):
    settings.SRQ_ADMIN = {"TIMEOUT": 10, "ALLOW": "not.there"}
    root = visitor("superuser")
    for path, query in LOOKS.items():
        assert "'not.there' cannot be imported" in said(root, f"{URL}{path}?{query}", 503), path
    for action in ACTIONS:
        assert root.post(f"{QUEUE}{action}/", {"confirmed": "1", "payload": "1"}).status_code == 503
    assert len(orders) == 0


def test_consumers_of_hidden_queues_do_not_name_them(orders, settings):
    options = settings.SRQ_QUEUES["orders"]
    settings.SRQ_QUEUES = {"orders": options, "secret": {**options, "PREFIX": options["PREFIX"] + "s"}}
    settings.SRQ_ADMIN = {"TIMEOUT": 10, "ALLOW": "tests.admin.test_pages.only_looking_at_orders"}
    for name in ("orders", "secret"):
        call = operations.register(queues[name].keys, "c9", b'{"host":"web-1","queues":["orders","secret",["odd"]]}')
        orders.link.call(call, queue="q")
    text = said(visitor("superuser"), f"{URL}consumers/")
    assert "orders" in text
    assert "secret" not in text


# -- wrong URLs and wrong input


def test_an_unknown_queue_is_a_404_that_says_so(orders):
    text = said(visitor("view"), f"{URL}queue/order/", 404)
    assert "There is no queue order. Did you mean 'orders'?" in text


@pytest.mark.parametrize("uid", ["gone", "", "two words", "ä", "x" * 200, HOSTILE])
def test_an_unknown_item_is_a_404_that_says_so(orders, uid):
    response = visitor("view").get(f"{QUEUE}item/", {"uid": uid})
    assert response.status_code == 404
    assert "It was acked or deleted, or it never existed" in response.content.decode()
    assert "<script>alert" not in response.content.decode()


@pytest.mark.parametrize("page", ["0", "-3", "999999", "1e9", "x", "", "٣"])
def test_page_numbers_are_brought_into_range(orders, page):
    for n in range(60):
        orders.put(n)
    text = said(visitor("view"), f"{QUEUE}?page={page}")
    assert re.search(r"Items (1 to 50|51 to 60) of 60", text)
    assert said(visitor("superuser"), f"{QUEUE}?page=999").count("51 to 60") == 1


# Python takes these for numbers, the server does not.
NO_NUMBERS = ["anan x", "a1_0 x", "b+nan x", "aNaN x", "a\u0663 x", "\u0663", "\u0663\u0661"]


@pytest.mark.parametrize("at", ["x", "a1", "b5 ", "a1 ä", "-5", "a" + "9" * 400 + " x", "ainf x", *NO_NUMBERS])
def test_an_invalid_position_shows_the_first_page(orders, at):
    orders.put("first", uid="later-1", delay=60)
    orders.put("second", uid="ready-1")
    orders.put("third", uid="held-1", priority=1)
    assert orders.get(-1).uid == "held-1"
    for state, uid in {"ready": "ready-1", "delayed": "later-1", "in_flight": "held-1"}.items():
        response = visitor_once().get(QUEUE, {"state": state, "at": at})
        assert (response.status_code, response.context["listing"].first) == (200, 0)
        assert uid in response.content.decode()


def test_a_position_beyond_the_end_shows_the_last_page(orders):
    for number in range(60):
        orders.put(number)
    assert "Items 51 to 60 of 60" in said(visitor("view"), f"{QUEUE}?state=ready&at={'9' * 400}")


def visitor_once() -> Client:
    browser = Client()
    browser.force_login(User.objects.filter(username="view").first() or visitor_user("view"))
    return browser


def visitor_user(name: str) -> User:
    visitor(name)
    return User.objects.get(username=name)


def test_purge_takes_no_single_items(orders):
    """Single items are dropped instead; that needs another permission, and no name to be typed."""
    uid = orders.put(1)
    browser = user_with("view", "purge")
    sent = {"state": "ready", "uid": uid, "confirmed": "1"}
    response = browser.post(f"{QUEUE}purge/", sent)
    assert response.status_code == 400
    assert "No items selected." in response.content.decode()
    assert browser.post(f"{QUEUE}purge/", {**sent, "everything": "1"}).status_code == 200
    assert orders.counts()["ready"] == 1


@pytest.mark.parametrize(
    ("path", "sent", "sentence"),
    [
        ("explode/", {}, "There is no action explode."),
        ("requeue/", {"state": "ready", "uid": "x"}, "not available for items in the state ready"),
        ("requeue/", {"uid": "x"}, "not available for items"),
        ("requeue/", {"state": "dead"}, "No items selected."),
        ("requeue/", {"state": "dead", "uid": "two words and more"}, "No such"),
        ("requeue/", {"state": "dead", "uid": "ä"}, "ä is not a valid uid."),
        ("drop/", {"state": "ready", "everything": "1"}, "Select items, or purge the queue."),
        ("requeue/", {"state": "dead", "uid": [f"u{n}" for n in range(501)]}, "At most 500 items"),
    ],
)
def test_an_impossible_action_is_a_400_that_says_why(orders, settings, path, sent, sentence):
    settings.USE_THOUSAND_SEPARATOR = True
    response = visitor("superuser").post(QUEUE + path, sent)
    if sentence == "No such":  # nobody has an item with this uid: the page asks, and the answer is that it is gone
        assert response.status_code == 200
        return
    assert response.status_code == 400
    assert sentence in html_module.unescape(words(response.content.decode()))


def test_an_unknown_state_is_a_400(orders):
    assert "There is no state odd." in said(visitor("view"), f"{QUEUE}?state=odd", 400)


@pytest.mark.parametrize("operation", ["", "x", "eyJhIjoxfQ:1abc:sig"])
def test_a_forged_operation_is_a_400(orders, operation):
    response = visitor("superuser").post(f"{URL}operation/", {"operation": operation})
    assert response.status_code == 400


@pytest.mark.parametrize("alias", [HOSTILE, "a/b", "..", "50%", "ä ö", "item", '"', "a'b"])
def test_a_queue_with_any_alias_has_its_pages(orders, settings, alias):
    (options,) = settings.SRQ_QUEUES.values()
    settings.SRQ_QUEUES = {alias: options}
    uid = queues[alias].put(HOSTILE, headers={HOSTILE: HOSTILE})
    root = visitor("superuser")
    (link,) = re.findall(r'<th scope="row"[^>]*><a href="([^"]+)"', read(root, URL))
    link = html_module.unescape(link)
    assert "<script>alert" not in read(root, link)
    item = read(root, f"{link}item/?uid={uid}")
    assert "<script>alert" not in item
    assert "&lt;script&gt;alert(1)" in item
    root.post(f"{link}drop/", {"state": "ready", "uid": uid, "confirmed": "1"})
    assert queues[alias].counts()["ready"] == 0


def test_a_misconfigured_queue_has_a_page(orders, settings):
    settings.SRQ_QUEUES = {**settings.SRQ_QUEUES, "wrong": {"URL": "nowhere://user:secret@x"}}
    text = said(visitor("superuser"), f"{URL}queue/wrong/")
    assert "not a URL of a queue's server" in text
    assert "secret" not in text
    assert "misconfigured" in said(user_with("view"), f"{URL}queue/wrong/item/?uid=x", 404)
    assert "misconfigured" in said(user_with("view", "pause"), f"{URL}queue/wrong/pause/", 400)


# -- servers in trouble


def test_server_down(settings, dead_port):
    settings.SRQ_QUEUES = {"orders": {"URL": f"redis://user:secret@127.0.0.1:{dead_port}", "TIMEOUT": 0.2}}
    root = visitor("superuser")
    assert "is down" in said(root, QUEUE)
    assert "secret" not in read(root, QUEUE)
    for action in ("pause", "resume", "purge", "requeue"):
        sent = {"confirmed": "1", "state": "all" if action == "purge" else "dead", "uid": "x", "name": "orders"}
        response = root.post(f"{QUEUE}{action}/", sent)
        assert response.status_code in (200, 400)
        assert "secret" not in response.content.decode()
    assert "Connection refused" in said(root, f"{QUEUE}item/?uid=x")
    assert LogEntry.objects.count() == 0


@pytest.mark.parametrize(
    ("options", "prepare", "words_"),
    [
        (("--requirepass", "geheim"), (), "refuses the user or password"),
        ((), ("REPLICAOF", "127.0.0.1", "1"), "read-only replica"),
        (("--maxmemory", "1"), (), "out of memory"),
    ],
)
def test_each_trouble_of_a_server_is_named(settings, monkeypatch, options, prepare, words_):
    monkeypatch.setattr(budget, "SHORTEST_ATTEMPT", 19.9)  # gives up after a tenth of a second
    server = Server(*options)
    try:
        if prepare:
            with server.client() as client:
                client.execute_command(*prepare)
        settings.SRQ_QUEUES = {"orders": {"URL": server.url, "TIMEOUT": 20}}
        root = visitor("superuser")
        assert words_ in said(root, QUEUE)
        if options != ("--maxmemory", "1"):
            response = root.post(f"{QUEUE}resume/", {"confirmed": "1"})
            assert words_ in html_module.unescape(response.content.decode())
        response = root.post(f"{QUEUE}put/", {"confirmed": "1", "payload": "1"})
        assert response.status_code == 200
        assert words_ in html_module.unescape(response.content.decode())
    finally:
        server.close()


# -- lists


def test_ready_items_are_listed_in_their_order(orders):
    uids = [orders.put({"n": n}) for n in range(60)]
    root = visitor("superuser")
    first = read(root, QUEUE)
    assert [uid for uid in uids if uid in first] == uids[:50]
    assert first.index(uids[0]) < first.index("next in line") < first.index(uids[1])
    (following,) = re.findall(r'rel="next" href="([^"]+)"', first)
    second = read(root, html_module.unescape(following))
    assert [uid for uid in uids if uid in second] == uids[50:]
    (previous,) = re.findall(r'rel="prev" href="([^"]+)"', second)
    assert uids[0] in read(root, html_module.unescape(previous))


@pytest.mark.parametrize("alike", [False, True], ids=["", "all at one moment"])
@pytest.mark.parametrize("state", ["delayed", "dead", "in_flight"])
def test_pages_of_other_states_continue_after_the_last_item(orders, client, state, alike):
    """When items leave the list between two pages, the next page skips and repeats nothing."""
    uids = [orders.put(n, delay=60 + n) if state == "delayed" else orders.put(n) for n in range(120)]
    if state != "delayed":
        items = orders.get_many(120)
        if state == "dead":
            for item in items:
                orders.link.call(operations.fail(orders.keys, DeliveryRef(item.uid, item.token), bury=True), queue="q")
    if alike:
        key = orders.keys[{"in_flight": "leases"}.get(state, state)]
        client.zadd(key, dict.fromkeys(uids, client.zscore(key, uids[0])))
    root, url, seen = visitor("superuser"), f"{QUEUE}?state={state}&all=1", []
    while url and len(seen) < 500:
        html = read(root, url)
        page = re.findall(r"item/\?uid=([\w-]{36})", html)
        seen += page
        if len(seen) == 50:
            if state == "in_flight":
                orders.ack_many([*page[:10], page[-1]])
            else:
                orders.drop(*page[:10], page[-1])
        following = re.findall(r'rel="next" href="([^"]+)"', html)
        url = html_module.unescape(following[0]) if following else ""
    assert sorted(seen) == sorted(uids)


def test_dead_items_are_grouped_by_error(orders):
    for _ in range(3):
        dead_item(orders, LookupError("no customer"))
    other = dead_item(orders, TimeoutError("too slow"))
    root = visitor("superuser")
    html = read(root, f"{QUEUE}?state=dead")
    assert "3 items" in html
    assert "no customer" in html
    assert "<details>" in html
    (link,) = re.findall(r'href="([^"]*group=TimeoutError[^"]*)">Show', html)
    listed = read(root, html_module.unescape(link))
    assert re.findall(r"item/\?uid=([\w-]{36})", listed) == [other]
    assert "too slow" in listed


def test_search_by_text(orders):
    needle = orders.put({"customer": "Zoë"})
    for n in range(20):
        orders.put({"customer": f"other {n}"})
    root = visitor("superuser")
    for text in ("Zoë", needle[-12:]):
        assert re.findall(r"item/\?uid=([\w-]{36})", read(root, f"{QUEUE}?q={text}")) == [needle]
    assert "No match among the items searched. Searched items 1 to 21 of 21" in said(root, f"{QUEUE}?q=nothing")
    assert needle not in read(user_with("view"), f"{QUEUE}?q=Zoë")


def test_a_search_says_which_items_it_has_searched(orders, settings):
    settings.USE_THOUSAND_SEPARATOR = True
    orders.put_many([{"n": n} for n in range(2500)])
    root, url, pages = visitor("superuser"), f"{QUEUE}?q=2499", []
    while url and len(pages) < 9:
        html = read(root, url)
        pages += re.findall(r"Searched items ([\d,]+ to [\d,]+ of [\d,]+)", html)
        following = re.findall(r'rel="next" href="([^"]+)"', html)
        url = html_module.unescape(following[0]) if following else ""
    assert pages == ["1 to 1,000 of 2,500", "1,001 to 2,000 of 2,500", "2,001 to 2,500 of 2,500"]
    assert "2499" in html


def test_a_search_does_not_find_redacted_text(orders):
    uid = orders.put({"password": "hunter2"})
    assert uid not in read(visitor("superuser"), f"{QUEUE}?q=hunter2")


def looked_at(browser: Client, text: str, state: str = "ready") -> str:
    html = said(browser, f"{QUEUE}?state={state}&q={text}")
    return re.findall(r"Searched items [\d,]+ to [\d,]+ of [\d,]+", html)[0]


@pytest.mark.parametrize("who", ["view", "superuser"])
def test_the_reach_of_a_search_reveals_nothing_that_is_redacted(orders, client, who):
    orders.put_many([{"password": "hunter2", "n": n} for n in range(120)])
    uids = many_dead(orders, client, 120)
    error = '{"type":"E","message":"password=hunter2","group":"odd"}'
    client.hset(orders.keys["errors"], mapping=dict.fromkeys(uids, error))
    browser = visitor(who)
    for state in ("ready", "dead"):
        assert looked_at(browser, "hunter2", state) == looked_at(browser, "guessed", state)
    shown = looked_at(browser, "password")  # in payloads
    assert shown == f"Searched items 1 to {120 if who == 'view' else 50} of 120"


@pytest.mark.parametrize("who", ["view", "superuser"])
def test_a_search_reads_payloads_only_for_users_who_may_see_them(orders, who, monkeypatch):
    orders.put({"n": 1})
    payloads = []
    original = browse._ask
    monkeypatch.setattr(browse, "_ask", lambda *a: payloads.append(original(*a)) or payloads[-1])
    read(visitor(who), f"{QUEUE}?q=n")
    assert [item.payload for listing in payloads for item in listing.items] == [b"" if who == "view" else b'{"n":1}']


@pytest.mark.parametrize("state", ["ready", "delayed", "dead"])
def test_the_next_page_of_a_search_begins_after_the_last_item_shown(orders, client, state):
    if state == "dead":
        uids = many_dead(orders, client, 120)[::-1]
    else:
        uids = [orders.put({"n": n}, uid=f"dead-{n}", delay=60 + n if state == "delayed" else 0) for n in range(120)]
    root, url, pages = visitor("superuser"), f"{QUEUE}?state={state}&q=dead-", []
    while url and len(pages) < 9:
        html = read(root, url)
        pages.append(re.findall(r"item/\?uid=([\w-]+)", html))
        following = re.findall(r'rel="next" href="([^"]+)"', html)
        url = html_module.unescape(following[0]) if following else ""
    assert pages == [uids[:50], uids[50:100], uids[100:]]


def test_a_search_of_large_payloads_covers_fewer_items(orders):
    orders.put_many([{"n": n, "text": "x" * 15_000} for n in range(200)])
    root, url, found = visitor("superuser"), f'{QUEUE}?q="n": 199', []
    for _ in range(3):
        html = read(root, url)
        found += re.findall(r"item/\?uid=([\w-]+)", html)
        following = re.findall(r'rel="next" href="([^"]+)"', html)
        url = html_module.unescape(following[0]) if following else QUEUE
        if found:
            break
        assert "Searched items 1 to 140 of 200" in html
    assert len(found) == 1


def test_items_in_flight_have_a_holder_and_a_remaining_time(orders, client):
    from tests.support.server_clock import now

    uid = orders.put(1)
    call = operations.claim(orders.keys, consumer="c77", lease=60, legacy_lease=60)
    orders.link.call(call, queue="q")
    token = client.hget(orders.keys["holders"], uid).decode()
    client.hset(orders.keys["holders"], uid, f"{token.partition('@')[0]}@{now(client) - 125_000}")
    text = said(visitor("view"), f"{QUEUE}?state=in_flight")
    assert re.search(rf"{uid} c77 2 min \d+ s 1 ", text) or re.search(rf"{uid} c77 2 min 1 min", text)


@pytest.mark.parametrize("consumer", ["c77", "c77.2"], ids=["a worker", "a supervisor's child"])
def test_items_in_flight_have_the_host_of_their_consumer(orders, consumer):
    orders.put(1)
    orders.link.call(operations.register(orders.keys, "c77", b'{"host":"web-1","pid":77}'), queue="q")
    call = operations.claim(orders.keys, consumer=consumer, lease=60, legacy_lease=60)
    orders.link.call(call, queue="q")
    assert f"{consumer} web-1, 77" in said(visitor("view"), f"{QUEUE}?state=in_flight")


def test_find_an_item(orders, settings):
    (options,) = settings.SRQ_QUEUES.values()
    settings.SRQ_QUEUES = {"orders": options, "mail": {**options, "PREFIX": options["PREFIX"] + "m"}}
    uid = queues["mail"].put(1)
    root = visitor("superuser")
    response = root.get(f"{URL}find/", {"uid": f" {uid} "})
    assert response.headers["Location"] == f"{URL}queue/mail/item/?uid={uid}"
    for name in ("orders", "mail"):
        queues[name].put(1, uid="twice")
    text = said(root, f"{URL}find/?uid=twice")
    assert "Several queues have an item with this uid: orders mail" in text
    assert "No queue has an item gone" in said(root, f"{URL}find/?uid=gone")


def test_find_asks_all_servers_at_the_same_time(orders, settings, dead_port, monkeypatch):
    (options,) = settings.SRQ_QUEUES.values()
    silent = {f"silent{n}": {"URL": f"redis://127.0.0.1:{dead_port}/{n}"} for n in range(4)}
    settings.SRQ_QUEUES = {**silent, "orders": options, "wrong": {"URL": "nowhere://x"}}
    uid, all_asked, original = orders.put(1), threading.Barrier(4, timeout=PATIENT), Link.look

    def look(self, asked, *, timeout):
        if str(dead_port) in self.address:
            all_asked.wait()
        return original(self, asked, timeout=timeout)

    monkeypatch.setattr(Link, "look", look)
    settings.SRQ_ADMIN = {"TIMEOUT": 2}
    root = visitor("superuser")
    text = said(root, f"{URL}find/?uid=gone")
    assert not all_asked.broken
    assert "None of the queues that could be searched has an item gone." in text
    assert "Queues that could not be searched: silent0, silent1, silent2, silent3, wrong" in text
    assert root.get(f"{URL}find/?uid={uid}").headers["Location"] == f"{QUEUE}item/?uid={uid}"


# -- one item


def test_the_page_of_an_item(orders):
    uid = orders.put({"order": 17, "card": {"token": "t0p"}}, priority=5, headers={"trace": "4bf92", "token": "x1"})
    text = said(visitor("superuser"), f"{QUEUE}item/?uid={uid}")
    assert '{ "order": 17, "card": { "token": "[…]" } }' in text
    assert "Headers token […] trace 4bf92" in text
    assert "Items ahead 0" in text
    assert "Priority 5" in text
    hidden = said(user_with("view"), f"{QUEUE}item/?uid={uid}")
    assert "You don’t have permission to view payloads." in hidden
    assert '"order"' not in hidden


def test_the_page_of_a_dead_item_has_its_history(orders):
    uid = dead_item(orders, LookupError(HOSTILE))
    text = said(visitor("superuser"), f"{QUEUE}item/?uid={uid}")
    assert "Traceback" not in text or "LookupError" in text
    assert "put" in text.partition("Timeline")[2]
    assert "delivery 1 failed: LookupError" in text
    assert "set aside as dead" in text
    assert "<script>alert" not in read(user_with("view"), f"{QUEUE}item/?uid={uid}")


def test_the_page_of_an_item_lists_only_the_actions_on_that_item(orders):
    uids = [orders.put(1, uid=uid) for uid in ("u1", "u10", "xu1", "Put", "item")]
    root = visitor("superuser")
    for chosen in (uids, ["u10", "xu1"]):
        confirmed(root, "drop", state="ready", uid=chosen)
        for uid in chosen:
            orders.put(1, uid=uid)
    confirmed(root, "put", payload="1")
    for uid, times in (("u1", 1), ("u10", 2), ("xu1", 2), ("Put", 1), ("item", 1)):
        assert said(root, f"{QUEUE}item/?uid={uid}").count("superuser: ") == times, uid


def test_the_page_of_an_unknown_item_does_not_query_the_log(orders):
    root = visitor("superuser")
    with CaptureQueriesContext(connection) as queries:
        said(root, f"{QUEUE}item/?uid=e", 404)
    assert not [query["sql"] for query in queries if "change_message" in query["sql"] and "LIKE" in query["sql"]]


@pytest.mark.parametrize(
    ("payload", "serializer", "shown"),
    [
        (b"\x00\xff\x01binary", "raw", "000000 00 ff 01 62 69 6e 61 72 79"),
        (b"plain text", "raw", "plain text"),
        (b'{"a": {"password": "x1y"}}', "raw", '"password": "[…]"'),
        (b"user=1 password=x1y", "raw", "user=1 password=[…]"),
        (b"no json", "json", "It cannot be decoded. These are its bytes: no json"),
        (b"\x80\x04K\x01.", "pickle", "Pickled payloads are not displayed, because unpickling can run code."),
        (b"x" * 70_000, "raw", "Too large to display."),
        (b"", "raw", "0 bytes"),
        (b"token" * 13_000, "raw", "tokentoken"),
        (b"a" * 60_000 + b" " * 5000, "raw", "aaaa"),
    ],
)
def test_payloads_of_all_kinds(orders, settings, client, payload, serializer, shown):
    uid = orders.put(1)
    client.hset(orders.keys["items"], uid, payload)
    settings.SRQ_QUEUES = {"orders": {**settings.SRQ_QUEUES["orders"], "SERIALIZER": serializer}}
    root = visitor("superuser")
    assert shown in said(root, f"{QUEUE}item/?uid={uid}")
    assert "x1y" not in read(root, f"{QUEUE}item/?uid={uid}") + read(root, QUEUE)


@pytest.mark.parametrize("serializer", ["raw", "json"])
def test_a_deeply_nested_item_is_listed_and_can_be_dropped(orders, settings, client, serializer):
    uid = orders.put(1)
    client.hset(orders.keys["items"], uid, b"[" * 1500 + b"]" * 1500)
    settings.SRQ_QUEUES = {"orders": {**settings.SRQ_QUEUES["orders"], "SERIALIZER": serializer}}
    root = visitor("superuser")
    assert uid in read(root, QUEUE)
    assert uid not in read(root, f"{QUEUE}?q=nothing")
    assert "It cannot be displayed" in said(root, f"{QUEUE}item/?uid={uid}")
    assert outcome(confirmed(root, "drop", state="ready", uid=uid)) == "orders: 1 item was deleted."


# -- actions


def confirmed(browser: Client, action: str, **sent: object):
    """Asks for the action, sends the form of the confirmation page, and follows the redirect."""
    asked = browser.post(f"{QUEUE}{action}/", sent)
    assert asked.status_code == 200
    html = asked.content.decode().partition('class="srq-confirm"')[2].partition("</form>")[0]
    fields: dict[str, list[str]] = {}
    for tag in re.findall(r"<input[^>]*>", html):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and value:
            fields.setdefault(name[1], []).append(html_module.unescape(value[1]))
    extra = {key: value for key, value in sent.items() if key not in fields}
    return browser.post(f"{QUEUE}{action}/", {**fields, **extra}, follow=True)


def outcome(response) -> str:
    (listed,) = re.findall(r'<ul class="messagelist">.*?</ul>', response.content.decode(), re.DOTALL)
    text = html_module.unescape(words(listed))
    return text[0].lower() + text[1:]  # the admin capitalises the first letter


def test_requeue_selected_items(orders):
    chosen, left = [dead_item(orders) for _ in range(2)], dead_item(orders)
    root = visitor("superuser")
    asked = root.post(f"{QUEUE}requeue/", {"state": "dead", "uid": chosen})
    text = html_module.unescape(words(asked.content.decode()))
    assert "Requeue 2 dead items of orders? Their deliveries and crashes are counted from zero again." in text
    assert all(uid in text for uid in chosen)
    assert "There is no live consumer" in text
    assert orders.counts()["dead"] == 3
    response = confirmed(root, "requeue", state="dead", uid=chosen)
    assert outcome(response) == "orders: 2 items are ready again."
    assert [item.uid for item in orders.items("dead")] == [left]
    (entry,) = LogEntry.objects.all()
    assert (entry.object_id, entry.user.username) == ("orders", "superuser")
    assert entry.change_message == f"Requeued 2 items (dead): {', '.join(chosen)}"
    assert entry.get_admin_url() == QUEUE
    assert entry.change_message in said(user_with("view"), f"{URL}activity/")
    assert "superuser: Requeued" in said(root, f"{QUEUE}item/?uid={chosen[0]}")


def test_the_message_says_so_when_an_item_has_changed_meanwhile(orders):
    chosen = [dead_item(orders) for _ in range(5)]
    orders.requeue(*chosen[:2])
    response = confirmed(visitor("superuser"), "drop", state="dead", uid=chosen)
    assert outcome(response) == "orders: 3 items were deleted. 2 of 5 were already gone."
    assert orders.counts() == {"ready": 2, "in_flight": 0, "delayed": 0, "dead": 0}


@pytest.mark.parametrize("action", ["requeue", "drop"])
def test_an_action_on_a_group_changes_only_that_group(orders, action):
    for _ in range(3):
        dead_item(orders, LookupError("a"))
    spared = [dead_item(orders, error) for error in (TimeoutError("b"), ValueError('"group":"LookupError"'))]
    (group,) = {known.name for known in browse.groups_of(orders.config, "dead") if known.name.startswith("LookupError")}
    root = visitor("superuser")
    asked = said(root, f"{QUEUE}{action}/?state=dead&group={group}")
    assert "3 " in asked
    assert group in asked
    response = confirmed(root, action, state="dead", group=group)
    assert "3 items" in outcome(response)
    assert sorted(item.uid for item in orders.items("dead")) == sorted(spared)
    assert LogEntry.objects.get().change_message.endswith(f"3 items (dead) of {group}")


def test_an_action_on_a_search_changes_only_its_matches(orders):
    found = [dead_item(orders, "x", payload={"customer": "Zoë", "n": n}) for n in range(3)]
    spared = dead_item(orders, "x", payload={"customer": "Bob", "password": "Zoë"})
    response = confirmed(visitor("superuser"), "requeue", state="dead", q="Zoë")
    assert "3 items are ready again" in outcome(response)
    assert [item.uid for item in orders.items("dead")] == [spared]
    assert sorted(item.uid for item in orders.items("ready")) == sorted(found)


def test_return_to_queue(orders):
    orders.put(1)
    item = orders.get(-1)
    chosen = re.findall(r'name="uid" value="([^"]+)"', read(visitor("superuser"), f"{QUEUE}?state=in_flight"))
    assert chosen == [f"{item.uid} {item.token}"]
    root = Client()
    root.force_login(User.objects.get(username="superuser"))
    response = confirmed(root, "release", state="in_flight", uid=chosen)
    assert outcome(response) == "orders: 1 item is ready again."
    again = orders.get(-1)
    assert again.uid == item.uid
    stale = confirmed(root, "release", state="in_flight", uid=chosen)  # this form names the delivery before
    assert "1 of 1 was already gone." in outcome(stale)
    assert orders.counts()["in_flight"] == 1


@pytest.mark.parametrize(
    ("state", "left"),
    [
        ("ready", {"ready": 0, "in_flight": 1, "delayed": 2, "dead": 2}),
        ("delayed", {"ready": 4, "in_flight": 1, "delayed": 0, "dead": 2}),
        ("dead", {"ready": 4, "in_flight": 1, "delayed": 2, "dead": 0}),
        ("all", {"ready": 0, "in_flight": 1, "delayed": 0, "dead": 0}),
    ],
)
def test_purge_asks_for_the_name_of_the_queue(orders, state, left):
    for _ in range(2):
        dead_item(orders)
        orders.put(1, delay=60)
    orders.put_many([1, 2, 3])
    orders.put(1, priority=-5)
    orders.get(-1)
    orders.put(5, priority=5)
    before = orders.counts()
    root = visitor("superuser")
    for name in ("order", ""):
        response = confirmed(root, "purge", state=state, everything="1", name=name)
        assert "The name does not match." in response.content.decode()
        assert orders.counts() == before
    response = confirmed(root, "purge", state=state, everything="1", name="orders")
    assert "deleted" in outcome(response)
    assert orders.counts() == left
    assert orders.audit() == []
    stats = orders.snapshot().stats
    assert (stats["purged"], stats.get("dropped", 0)) == (sum(before.values()) - sum(left.values()), 0)


def test_pause_and_resume(orders):
    orders.put(1)
    root = visitor("superuser")
    until = timezone.localtime(timezone.now() + timedelta(hours=1)).replace(second=0, microsecond=0, tzinfo=None)
    response = confirmed(root, "pause", reason="deploy", until=until.isoformat())
    assert "The queue is paused" in outcome(response)
    assert not orders.get(-1)
    pause = orders.snapshot().paused
    assert (pause["by"], pause["reason"]) == ("superuser", "deploy")
    assert "paused (by superuser" in html_module.unescape(words(response.content.decode()))
    assert "It was paused by superuser. Reason: deploy" in said(root, f"{QUEUE}resume/")
    assert "Consumers take items again" in outcome(confirmed(root, "resume"))
    assert orders.get(-1)
    messages = list(LogEntry.objects.order_by("pk").values_list("change_message", flat=True))
    assert messages[0].startswith("Paused, until ")
    assert messages[0].endswith(": deploy")
    assert messages[1] == "Resumed"


@pytest.mark.parametrize("aware", [True, False], ids=["USE_TZ", "no USE_TZ"])
def test_the_form_to_change_a_pause_has_its_present_values(orders, settings, aware):
    settings.USE_TZ, settings.TIME_ZONE = aware, "Asia/Tokyo"
    root = visitor("superuser")
    orders.pause("stock-taking", by="ada", until=datetime(2040, 1, 1, 0, 30, tzinfo=UTC))
    asked = root.get(f"{QUEUE}pause/").content.decode()
    assert "Time zone: Asia/Tokyo." in asked
    assert 'value="2040-01-01T09:30"' in asked
    before = orders.snapshot().paused
    confirmed(root, "pause")
    after = orders.snapshot().paused
    assert (after["reason"], after["until"]) == (before["reason"], before["until"])
    call = operations.pause(orders.keys, about={"reason": "x"}, until=datetime(9999, 12, 31, 23, 59, tzinfo=UTC))
    orders.link.call(call, queue="q")
    assert 'value="9999-12-' in read(root, f"{QUEUE}pause/")
    orders.resume()
    assert not re.search('name="until"[^>]*value', read(root, f"{QUEUE}pause/"))


def test_a_pause_until_a_time_in_the_past_is_refused(orders):
    response = visitor("superuser").post(f"{QUEUE}pause/", {"confirmed": "1", "until": "2020-01-01T00:00"})
    assert "This time is in the past." in response.content.decode()
    assert orders.snapshot().paused is None


def test_an_action_with_an_unknown_outcome_is_logged(orders, monkeypatch):
    from django_srq.exceptions import OutcomeUnknown
    from django_srq.registry import Queue

    def lose(self, *args, **options):
        raise OutcomeUnknown("no reply")

    monkeypatch.setattr(Queue, "pause", lose)
    response = visitor("superuser").post(f"{QUEUE}pause/", {"confirmed": "1"})
    assert "no reply" in response.content.decode()
    assert LogEntry.objects.get().change_message == "Pause: sent, but its outcome is unknown"


def test_an_operation_is_logged_before_it_begins(orders, client, monkeypatch):
    from django_srq.exceptions import OutcomeUnknown

    many_dead(orders, client, 3)

    def lose(*args):
        raise OutcomeUnknown("no reply")

    monkeypatch.setattr(batches, "carry_out", lose)
    response = confirmed(visitor("superuser"), "drop", state="dead", everything="1")
    html = response.content.decode()
    assert "no reply" in html
    assert LogEntry.objects.get().change_message == "Dropped 0 items (dead), so far"
    monkeypatch.undo()
    root = Client()
    root.force_login(User.objects.get(username="superuser"))
    root.post(f"{URL}operation/", {"operation": hidden(html)})
    assert LogEntry.objects.get().change_message == "Dropped 3 items (dead)"


def test_put_an_item(orders):
    root = visitor("superuser")
    response = confirmed(root, "put", payload='{"order": 17}', delay="")
    assert "was put." in outcome(response)
    assert orders.get(-1).payload == {"order": 17}
    refused = root.post(f"{QUEUE}put/", {"confirmed": "1", "payload": "{", "delay": ""})
    assert "This is not valid JSON" in refused.content.decode()
    assert len(orders) == 0
    confirmed(root, "put", payload="1", delay="60")
    assert orders.counts()["delayed"] == 1


def test_put_into_a_raw_queue_converts_line_ends_of_the_form(orders, settings):
    settings.SRQ_QUEUES = {"orders": {**settings.SRQ_QUEUES["orders"], "SERIALIZER": "raw"}}
    confirmed(visitor("superuser"), "put", payload="one\r\ntwo\n")
    assert queues["orders"].get(-1).payload == b"one\ntwo\n"


# -- operations


def many_dead(orders, client, n: int) -> list[str]:
    """Writes n dead items directly, which is faster than n failures."""
    uids = [f"dead-{i:06}" for i in range(n)]
    with client.pipeline() as pipe:
        for i, uid in enumerate(uids):
            pipe.hset(orders.keys["items"], uid, b"1")
            pipe.zadd(orders.keys["dead"], {uid: 1000 + i})
            pipe.hset(
                orders.keys["errors"], uid, '{"type":"E","message":"m","group":"%s"}' % ("odd" if i % 2 else "even")
            )
        pipe.hset(orders.keys["deadgroups"], mapping={"odd": f"{n // 2} 1000 2000", "even": f"{n - n // 2} 1000 2000"})
        pipe.execute()
    return uids


def hidden(html: str) -> str:
    return html_module.unescape(re.findall(r'name="operation" value="([^"]+)"', html)[0])


def test_many_items_are_requeued_in_batches_with_progress(orders, client):
    many_dead(orders, client, 2500)
    root = visitor("superuser")
    response = confirmed(root, "requeue", state="dead", everything="1")
    html = response.content.decode()
    assert "1000 items are ready again." in html
    assert 'value="40"' in html
    assert orders.counts() == {"ready": 1000, "in_flight": 0, "delayed": 0, "dead": 1500}
    operation = hidden(html)
    response = root.post(f"{URL}operation/", {"operation": operation}, follow=True)
    assert "2000 items are ready again." in response.content.decode()
    again = root.post(f"{URL}operation/", {"operation": operation}, follow=True)  # sent a second time
    assert "items are ready again" in outcome(again)
    assert orders.counts() == {"ready": 2500, "in_flight": 0, "delayed": 0, "dead": 0}
    assert LogEntry.objects.count() == 1


def test_an_operation_can_be_stopped(orders, client):
    many_dead(orders, client, 2500)
    root = visitor("superuser")
    response = confirmed(root, "drop", state="dead", group="odd")
    sent = {"operation": hidden(response.content.decode()), "stop": "1"}
    response = root.post(f"{URL}operation/", sent, follow=True)
    assert outcome(response) == "orders: Stopped. 500 items were deleted."
    assert orders.counts()["dead"] == 2000
    assert LogEntry.objects.get().change_message == "Dropped 500 items (dead) of odd, stopped"


def test_an_operation_spares_items_that_die_after_its_begin(orders, client):
    many_dead(orders, client, 1500)
    root = visitor("superuser")
    response = confirmed(root, "drop", state="dead", everything="1")
    operation = hidden(response.content.decode())
    later = dead_item(orders)
    root.post(f"{URL}operation/", {"operation": operation}, follow=True)
    assert [item.uid for item in orders.items("dead")] == [later]


def test_a_purge_in_batches_spares_items_put_meanwhile(orders):
    orders.put_many(range(2300))
    for n in range(3):
        orders.put(n, delay=60)
    root = visitor("superuser")
    response = confirmed(root, "purge", state="all", everything="1", name="orders")
    later = [orders.put("later"), orders.put("later", delay=60), orders.put("later", priority=3)]
    for _ in range(20):
        if 'name="operation"' not in response.content.decode():
            break
        sent = {"operation": hidden(response.content.decode())}
        response = root.post(f"{URL}operation/", sent, follow=True)
    assert sorted(item.uid for state in operations.STATES for item in orders.items(state)) == sorted(later)
    assert orders.audit() == []


def test_a_repeated_purge_spares_items_put_meanwhile(orders):
    """A request is repeated after a lost reply, or when somebody loads the page again."""
    orders.put_many(range(3))
    operation = batches.BulkAction.begin(batches.Selection("purge", "orders", "ready"), 3, orders.snapshot().at)
    assert batches.carry_on(operation, orders).done == 3
    later = orders.put("later")
    again = batches.carry_on(operation, orders)
    assert (again.done, again.over) == (3, True)
    assert [item.uid for item in orders.items()] == [later]


def test_another_user_cannot_continue_an_operation(orders, client):
    many_dead(orders, client, 1500)
    operation = hidden(confirmed(visitor("superuser"), "drop", state="dead", everything="1").content.decode())
    assert user_with("view", "requeue").post(f"{URL}operation/", {"operation": operation}).status_code == 403
    assert orders.counts()["dead"] == 500


def test_a_batch_has_at_most_1000_items(orders, client, monkeypatch):
    many_dead(orders, client, 1200)
    sizes = []
    original = batches.carry_out
    monkeypatch.setattr(batches, "carry_out", lambda *a: sizes.append(len(a[3])) or original(*a))
    confirmed(visitor("superuser"), "drop", state="dead", everything="1")
    assert sizes == [1000]


def test_the_live_part_of_an_operation(orders, client):
    many_dead(orders, client, 1500)
    root = visitor("superuser")
    operation = hidden(confirmed(root, "requeue", state="dead", everything="1").content.decode())
    response = root.post(f"{URL}operation/", {"operation": operation}, headers={"X-SRQ-Live": "1"})
    html = response.content.decode()
    assert "<html" not in html
    assert "1500 items are ready again." in html
    assert "Back to the queue" in html


# -- live parts, consumers, activity


@pytest.mark.parametrize("path", ["", "queue/orders/", "queue/orders/?state=dead", "consumers/"])
def test_the_live_part_is_a_part_of_the_page(orders, path):
    dead_item(orders)
    root = visitor("superuser")
    whole = read(root, URL + path)
    part = root.get(URL + path, headers={"X-SRQ-Live": "1"}).content.decode()
    assert "<html" not in part
    assert len(part) < len(whole)
    still = words(part).partition("read in")[0].split()[:8]
    assert " ".join(still) in words(whole)


def test_the_page_of_consumers(orders, client):
    from tests.support.server_clock import now

    moment = now(client)
    call = operations.register(
        orders.keys, "c9", b'{"host":"web-1","pid":77,"since":%d,"version":"1.0","queues":["orders"]}' % moment
    )
    orders.link.call(call, queue="q")
    busy = b'{"host":"web-2","state":"busy","children":[{"pid":5,"items":[{"uid":"u-1","since":%d}]}]}' % (
        moment - 65_000
    )
    orders.link.call(operations.register(orders.keys, "c8", busy), queue="q")
    client.hset(orders.keys["consumers"], "c7", f'{{"seen":{moment - 10**7}}}')
    client.hset(orders.keys["consumers"], "c6", "[]")
    text = said(visitor("view"), f"{URL}consumers/")
    assert re.search(r"c8 busy web-2 – orders u-1 1 min – \d s ago –", text)
    assert re.search(r"c9 live web-1 77 orders – \S.* \d s ago 1\.0", text)
    assert re.search(r"c7 lost – – orders – – 2 h ago –", text)
    assert "c6 lost" in text


def test_the_page_of_consumers_without_a_consumer(orders):
    assert "No consumer is known. Start one: manage.py srq_consume" in said(visitor("view"), f"{URL}consumers/")


def test_the_activity_has_pages(orders):
    user = visitor_user("view")
    from django.contrib.contenttypes.models import ContentType

    from django_srq.models import QueueStatus

    kind = ContentType.objects.get_for_model(QueueStatus)
    for n in range(60):
        LogEntry.objects.create(
            user=user,
            content_type=kind,
            object_id="orders",
            object_repr="orders",
            action_flag=2,
            change_message=f"did {n};",
        )
    browser = visitor_once()
    assert "did 59;" in said(browser, f"{URL}activity/")
    assert "did 5;" in said(browser, f"{URL}activity/?page=2")
    assert "did 5;" in said(browser, f"{URL}activity/?page=99")
    assert "No actions yet." in said_for_nobody()


def said_for_nobody() -> str:
    LogEntry.objects.all().delete()
    return said(visitor_once(), f"{URL}activity/")


def test_the_admin_s_recent_actions_link_to_the_queue(orders):
    root = visitor("superuser")
    confirmed(root, "pause", reason="x")
    assert f'href="{QUEUE}"' in read(root, reverse("admin:index"))


def test_the_overview_of_twenty_queues_takes_one_round_trip(orders, settings, monkeypatch):
    (options,) = settings.SRQ_QUEUES.values()
    settings.SRQ_QUEUES = {f"q{n}": {**options, "PREFIX": f"{options['PREFIX']}{n}"} for n in range(20)}
    root = visitor("superuser")
    read(root, URL)
    trips = []
    original = SyncPool.exchange
    monkeypatch.setattr(
        SyncPool, "exchange", lambda *a, **k: trips.append(a[1].count(b"\r\n*") + 1) or original(*a, **k)
    )
    read(root, URL)
    assert trips == [21]
