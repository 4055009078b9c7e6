"""The pages of a queue of tasks: tasks by name and arguments, finished ones with results, running again."""

from __future__ import annotations

import html as html_module
import json
import re

import pytest
from django.contrib.admin.models import LogEntry

from django_srq import SafeRedisQueue, operations, queues
from django_srq.operations import DeliveryRef, kept
from django_srq.queue import failure
from django_srq.queue.masking import MASK
from tests.admin.test_admin import URL, visitor, words
from tests.admin.test_pages import read, said, user_with

pytestmark = [pytest.mark.django_db, pytest.mark.versions]

MAIL = f"{URL}queue/mail/"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def mail(settings, server_url, prefix):
    """A queue of tasks, beside one with a handler."""
    common = {"URL": server_url}
    settings.SRQ_QUEUES = {
        "mail": {**common, "PREFIX": f"{prefix}:mail"},
        "orders": {**common, "PREFIX": f"{prefix}:orders", "HANDLER": "tests.support.handlers.note"},
    }
    settings.TASKS = {"default": {"BACKEND": "django_srq.tasks.SRQBackend", "QUEUES": ["mail"]}}
    settings.SRQ_ADMIN = {"TIMEOUT": 10}  # a busy machine must not count as a server that is down
    return queues["mail"]


def task(*args: object, name: str = "shop.tasks.welcome", **kwargs: object) -> dict[str, object]:
    return {"task": name, "args": list(args), "kwargs": kwargs}


def held(queue: SafeRedisQueue, payload: object, **options: object) -> DeliveryRef:
    """Put a payload and take it."""
    uid = queue.put(payload, **options)
    item = queue.get(-1)
    assert item.uid == uid
    return DeliveryRef(uid, item.token, item.delivery.number)


def done(
    queue: SafeRedisQueue, payload: object, value: object = None, error: Exception | None = None, **options
) -> str:
    """A task that has ended: with a return value, or with an error."""
    ref = held(queue, payload, **options)
    outcome: dict[str, object] = {"s": "SUCCESSFUL", "r": value}
    if error is not None:
        known = json.loads(failure.describe(error))
        outcome = {"s": "FAILED", "e": {name: known.get(name, "") for name in ("type", "message", "traceback")}}
    result = kept(3600, 1000, json.dumps(outcome).encode())
    assert queue.link.call(operations.ack(queue.keys, [ref], [result]), queue="q") == [True]
    return ref.uid


def failed(queue: SafeRedisQueue, payload: object, error: Exception, *, bury: bool = True) -> str:
    ref = held(queue, payload)
    record = {**json.loads(failure.describe(error, consumer="c1.1")), "keep": 9}
    call = operations.fail(queue.keys, ref, error=json.dumps(record).encode(), bury=bury, delay=600)
    queue.link.call(call, queue="q")
    return ref.uid


def confirmed(browser, action: str, state: str, *uids: str):
    return browser.post(f"{MAIL}{action}/", {"state": state, "uid": uids, "confirmed": "1"})


# -- lists


@pytest.mark.parametrize("state", ["ready", "in_flight", "delayed", "dead"])
def test_tasks_are_listed_by_name_and_arguments(mail, state):
    payload = task(17, full=False, password="geheim")
    uid = {
        "ready": lambda: mail.put(payload),
        "in_flight": lambda: held(mail, payload).uid,
        "delayed": lambda: mail.put(payload, delay=60),
        "dead": lambda: failed(mail, payload, ValueError("no")),
    }[state]()
    html = read(visitor("superuser"), f"{MAIL}?state={state}&all=1")
    (row,) = re.findall(rf"<tr>(?:(?!<tr>).)*?uid={uid}.*?</tr>", html, re.DOTALL)
    assert f"welcome(17, full=False, password={MASK})" in row
    assert 'title="shop.tasks.welcome"' in row
    assert uid in words(row)
    assert "geheim" not in html
    assert ">Payload</th>" not in html


@pytest.mark.parametrize("state", ["ready", "dead", "done"])
def test_without_the_permission_for_payloads_a_list_names_no_task(mail, state):
    {
        "ready": lambda: mail.put(task(17)),
        "dead": lambda: failed(mail, task(17), ValueError("no")),
        "done": lambda: done(mail, task(17), {"a": "geheim"}),
    }[state]()
    html = read(user_with("view"), f"{MAIL}?state={state}&all=1")
    assert "welcome" not in html
    assert "geheim" not in html
    assert re.search(r"uid=[\w-]{36}", html)


def test_a_payload_that_is_no_task_is_shown_as_it_is(mail):
    mail.put({"order": 17, "token": "geheim"})
    html = read(visitor("superuser"), MAIL)
    assert "&quot;order&quot;: 17" in html
    assert "geheim" not in html


def test_the_look_of_a_payload_makes_no_task(mail):
    queues["orders"].put(task(17))
    html = read(visitor("superuser"), f"{URL}queue/orders/")
    assert "welcome(17)" not in html
    assert ">Payload</th>" in html
    assert "state=done" not in html


def test_hostile_arguments_are_only_text(mail):
    done(mail, task(HOSTILE), {HOSTILE: HOSTILE})
    uid = failed(mail, task(HOSTILE), ValueError(HOSTILE))
    mail.put(task(HOSTILE, name=f"a.{HOSTILE}"))
    root = visitor("superuser")
    for path in ("?state=ready", "?state=dead", "?state=dead&all=1", "?state=done", f"item/?uid={uid}"):
        html = read(root, MAIL + path)
        assert HOSTILE not in html, path
        assert "&lt;script&gt;" in html, path


@pytest.mark.parametrize("state", ["dead", "delayed"])
def test_groups_are_by_task_and_error(mail, state):
    for name in ("shop.tasks.welcome", "shop.tasks.welcome", "shop.tasks.remind"):
        failed(mail, task(1, name=name), ValueError("no such user"), bury=state == "dead")
    root = visitor("superuser")
    html = read(root, f"{MAIL}?state={state}")
    titles = [html_module.unescape(words(title)) for title in re.findall(r"<h2>(.*?)</h2>", html)]
    assert sorted(titles) == ["shop.tasks.remind: ValueError", "shop.tasks.welcome: ValueError"]
    (link,) = re.findall(r'href="([^"]*group=shop.tasks.welcome[^"]*)">Show', html)
    listed = read(root, html_module.unescape(link))
    assert listed.count("welcome(1)") == 2
    assert "remind(1)" not in listed


def test_requeueing_a_group_takes_the_tasks_of_this_name_only(mail):
    for name in ("shop.tasks.welcome", "shop.tasks.welcome", "shop.tasks.remind"):
        failed(mail, task(1, name=name), ValueError("no such user"))
    root = visitor("superuser")
    sent = {"state": "dead", "group": "shop.tasks.welcome: ValueError", "everything": "1", "confirmed": "1"}
    assert "2 items are ready again" in html_module.unescape(
        root.post(f"{MAIL}requeue/", sent, follow=True).content.decode()
    )
    assert mail.counts() == {"ready": 2, "in_flight": 0, "delayed": 0, "dead": 1}


# -- finished tasks


def test_finished_tasks_are_listed_newest_first_with_their_results(mail):
    uids = [
        done(mail, task(1), {"sent": 3, "token": "geheim"}),
        done(mail, task(2), error=ValueError("no such user")),
        done(mail, task(3)),
    ]
    html = read(visitor("superuser"), f"{MAIL}?state=done")
    assert re.findall(r'class="srq-uid" href="[^"]*\?uid=([\w-]{36})', html) == uids[::-1]
    (table,) = re.findall(r"<tbody>.*</tbody>", html.partition('id="srq-chosen"')[2], re.DOTALL)
    rows = [html_module.unescape(words(row)) for row in table.split("</tr>")]
    assert f"welcome(3) {uids[2]} successful None 0 s ago" in rows[0]
    assert f"welcome(2) {uids[1]} failed ValueError: no such user" in rows[1]
    assert f"welcome(1) {uids[0]} successful {{'sent': 3, 'token': {MASK}}}" in rows[2]
    assert re.search(r"\d\.\d{3} s 1$", rows[0])
    assert "geheim" not in html
    assert re.search(r'state=done" aria-current="page">Finished <b>3</b>', html)


def test_all_finished_tasks_can_be_reached(mail):
    uids = [done(mail, task(n)) for n in range(120)]
    root, url, seen = visitor("superuser"), f"{MAIL}?state=done", []
    while url and len(seen) < 500:
        html = read(root, url)
        seen += re.findall(r'class="srq-uid" href="[^"]*\?uid=([\w-]{36})', html)
        following = re.findall(r'rel="next" href="([^"]+)"', html)
        url = html_module.unescape(following[0]) if following else ""
        if len(seen) == 50:
            uids.append(done(mail, task("new")))  # a page that was begun is not moved by it
    assert seen == uids[119::-1]
    assert 'rel="first"' in html


@pytest.mark.parametrize("before", ["x", "nan", "1e9", "", "-1", "9" * 400, "٣"])
def test_an_invalid_page_of_finished_tasks_is_the_first_one(mail, before):
    uid = done(mail, task(1))
    response = visitor("superuser").get(MAIL, {"state": "done", "before": before})
    assert response.status_code == 200
    assert uid in response.content.decode()


def test_no_finished_tasks(mail):
    assert "No results of finished tasks." in said(visitor("superuser"), f"{MAIL}?state=done")


def test_only_queues_of_tasks_have_finished_ones(mail):
    assert "There is no state done." in said(visitor("superuser"), f"{URL}queue/orders/?state=done", 400)


# -- the page of a task


def test_the_page_of_a_finished_task(mail):
    uid = done(mail, task(17, password="geheim"), ["ok", 3])
    text = said(visitor("superuser"), f"{MAIL}item/?uid={uid}")
    assert f"{uid} Finished" in text
    assert f"welcome(17, password={MASK})" in text
    assert "Task shop.tasks.welcome" in text
    assert "Status SUCCESSFUL" in text
    assert "Return value ['ok', 3]" in text
    assert re.search(r"Attempts 1\. .* successful", text)
    assert re.search(r"Timeline .* put .* delivery 1, to .* finished", text)
    assert "geheim" not in text


def test_the_page_of_a_task_that_failed_for_good(mail):
    uid = done(mail, task(17), error=ValueError("no such user"))
    text = said(visitor("superuser"), f"{MAIL}item/?uid={uid}")
    assert "Status FAILED" in text
    assert "Return value" not in text
    assert re.search(r"Attempts 1\. .* failed .* ValueError: no such user", text)


def test_the_page_of_a_task_shows_every_attempt(mail):
    uid = mail.put(task(17))
    for n in range(3):
        item = mail.get(-1)
        error = {"type": "ValueError", "message": f"no {n}", "keep": 9, "consumer": "c1.1"}
        held = DeliveryRef(uid, item.token, item.delivery.number)
        call = operations.fail(mail.keys, held, error=json.dumps(error).encode(), bury=n == 2)
        mail.link.call(call, queue="q")
    text = said(visitor("superuser"), f"{MAIL}item/?uid={uid}")
    assert "Status FAILED" in text
    attempts = re.findall(r"(\d)\. \S+ [\d:]+ failed · 0[.]\d{3} s · c1.1 ValueError: no (\d)", text)
    assert attempts == [("3", "2"), ("2", "1"), ("1", "0")]
    assert "Last error" not in text


def test_the_page_of_a_task_that_runs(mail):
    ref = held(mail, task(17))
    text = said(visitor("superuser"), f"{MAIL}item/?uid={ref.uid}")
    assert "Status RUNNING" in text
    assert re.search(r"Attempts 1\. .* running", text)


def test_without_the_permission_for_payloads_the_page_shows_neither_arguments_nor_value(mail):
    uid = done(mail, task(17), "geheim")
    text = said(user_with("view"), f"{MAIL}item/?uid={uid}")
    assert "Status SUCCESSFUL" in text
    assert "welcome" not in text
    assert "geheim" not in text


def test_a_finished_task_is_found_by_its_uid(mail):
    uid = done(mail, task(17))
    response = visitor("superuser").get(f"{URL}find/?uid={uid}")
    assert (response.status_code, response.headers["Location"]) == (302, f"{MAIL}item/?uid={uid}")


def test_a_result_that_is_gone_is_a_404(mail):
    uid = done(mail, task(17))
    mail.purge_results()
    assert "no item" in said(visitor("superuser"), f"{MAIL}item/?uid={uid}", 404)


# -- putting a task by hand


def test_a_task_can_be_put_by_hand(mail):
    root = visitor("superuser")
    assert '"kwargs": {}' in said(root, f"{MAIL}put/")
    root.post(f"{MAIL}put/", {"payload": json.dumps(task(1, full=True)), "confirmed": "1"})
    (item,) = mail.items("ready")
    assert item.payload == task(1, full=True)


@pytest.mark.parametrize("payload", ['{"order": 17}', "17", '{"task": "a.b", "args": 1, "kwargs": {}}'])
def test_what_is_no_task_cannot_be_put_by_hand(mail, payload):
    response = visitor("superuser").post(f"{MAIL}put/", {"payload": payload, "confirmed": "1"})
    assert "This is no task: it needs the fields task, args and kwargs." in response.content.decode()
    assert mail.counts()["ready"] == 0


# -- running again


def test_finished_tasks_run_again_with_the_same_arguments(mail):
    chosen = [
        done(mail, task(1), "first", headers={"trace": "4bf9"}, priority=5),
        done(mail, task(2), error=ValueError("x")),
    ]
    done(mail, task(3))
    root = visitor("superuser")
    asked = said(root, f"{MAIL}run_again/?state=done&uid={chosen[0]}&uid={chosen[1]}")
    assert "Run 2 finished tasks of mail again, with the same arguments? They become new tasks." in asked
    assert "no live consumer" in asked
    response = root.post(f"{MAIL}run_again/", {"state": "done", "uid": chosen, "confirmed": "1"}, follow=True)
    assert "2 tasks are ready again." in html_module.unescape(response.content.decode())
    items = {item.payload["args"][0]: item for item in mail.items("ready")}
    assert {number: item.payload for number, item in items.items()} == {1: task(1), 2: task(2)}
    assert not {item.uid for item in items.values()} & set(chosen)
    assert [items[n].delivery.priority for n in (1, 2)] == [5, 0]
    assert items[1].delivery.headers == {"trace": "4bf9"}
    assert mail.snapshot().results == 3
    (entry,) = LogEntry.objects.all()
    assert entry.change_message == f"Run again: 2 items (done): {', '.join(chosen)}"


def test_a_unique_task_runs_again_under_its_own_uid(mail):
    """Its uid is made from its arguments: under another one, it could run twice at one time."""
    uid = "12345678-1234-8234-8234-123456789abc"
    done(mail, task(1), "first", uid=uid)
    confirmed(visitor("superuser"), "run_again", "done", uid)
    (item,) = mail.items("ready")
    assert (item.uid, item.payload) == (uid, task(1))
    assert mail.snapshot().results == 0


def test_a_task_whose_result_is_gone_cannot_run_again(mail):
    uid = done(mail, task(1))
    mail.purge_results()
    response = visitor("superuser").post(
        f"{MAIL}run_again/", {"state": "done", "uid": uid, "confirmed": "1"}, follow=True
    )
    assert "0 tasks are ready again. 1 of 1 was already gone." in html_module.unescape(response.content.decode())
    assert mail.counts()["ready"] == 0


def test_large_tasks_run_again_too(mail):
    uids = [done(mail, task("x" * 400_000, n)) for n in range(5)]
    confirmed(visitor("superuser"), "run_again", "done", *uids)
    assert sorted(item.payload["args"][1] for item in mail.items("ready")) == [0, 1, 2, 3, 4]


# -- who may do what


@pytest.mark.parametrize(
    ("action", "state", "permission"), [("run_again", "done", "requeue"), ("cancel", "ready", "drop")]
)
def test_each_action_needs_its_permission_and_is_a_post(mail, settings, action, state, permission):
    uid = done(mail, task(1)) if state == "done" else mail.put(task(1))
    sent = {"state": state, "uid": uid}
    other = {"requeue": "drop", "drop": "requeue"}[permission]
    assert user_with("view", other).post(f"{MAIL}{action}/", {**sent, "confirmed": "1"}).status_code == 403
    browser = user_with("view", permission)
    assert f"mail/{action}/" in read(browser, f"{MAIL}?state={state}")
    assert f"mail/{action}/" in read(browser, f"{MAIL}item/?uid={uid}")
    assert browser.get(f"{MAIL}{action}/", {**sent, "confirmed": "1"}).status_code == 200
    assert mail.counts()["ready"] == (state == "ready")
    settings.SRQ_ADMIN = {"TIMEOUT": 10, "READ_ONLY": True}
    assert browser.post(f"{MAIL}{action}/", {**sent, "confirmed": "1"}).status_code == 403
    assert f"mail/{action}/" not in read(browser, f"{MAIL}?state={state}")


@pytest.mark.parametrize(("action", "state"), [("run_again", "done"), ("cancel", "ready")])
def test_only_queues_of_tasks_have_these_actions(mail, action, state):
    uid = queues["orders"].put(1)
    root = visitor("superuser")
    assert f"orders/{action}/" not in read(root, f"{URL}queue/orders/?state=ready")
    response = root.post(f"{URL}queue/orders/{action}/", {"state": state, "uid": uid, "confirmed": "1"})
    assert response.status_code == 400
    assert "only available for queues of tasks" in response.content.decode()
    assert queues["orders"].counts()["ready"] == 1


@pytest.mark.parametrize(
    ("action", "sent", "sentence"),
    [
        ("run_again", {"state": "dead", "uid": "x"}, "not available for items in the state dead"),
        ("run_again", {"state": "done", "everything": "1"}, "No items selected."),
        ("run_again", {"state": "done", "q": "x"}, "No items selected."),
        ("cancel", {"state": "in_flight", "uid": "x"}, "not available for items in the state in_flight"),
        ("cancel", {"state": "ready", "everything": "1"}, "Select items, or purge the queue."),
    ],
)
def test_an_impossible_action_is_a_400_that_says_why(mail, action, sent, sentence):
    response = visitor("superuser").post(f"{MAIL}{action}/", {**sent, "confirmed": "1"})
    assert response.status_code == 400
    assert sentence in html_module.unescape(words(response.content.decode()))


# -- the state of the queue


def test_a_queue_of_tasks_without_a_consumer_names_the_command(mail):
    mail.put(task(1))
    text = said(visitor("superuser"), MAIL)
    assert "Start one: manage.py srq_consume mail" in text
    assert "It has no HANDLER" not in text


def test_the_pages_in_german(mail, settings):
    settings.LANGUAGE_CODE = "de"
    done(mail, task(1))
    text = said(visitor("superuser"), f"{MAIL}?state=done")
    assert "Fertig 1" in text
    assert "Aufgabe Ergebnis Fertig Dauer Zustellungen" in text
