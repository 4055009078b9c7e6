"""Queues of tasks in the shell: srq_show, srq_status and srq_purge know them."""

from __future__ import annotations

import json
import re

import pytest

from django_srq import operations, queues
from django_srq.operations import DeliveryRef
from django_srq.queue.masking import MASK
from tests.admin.test_tasks import done, failed, task

pytestmark = pytest.mark.versions
NO_TASK = {"task": None, "status": None, "finished": None, "return_value": None}


@pytest.fixture
def project(project, settings, server_url, prefix):
    """A queue of tasks, mail, beside one with a handler."""
    options = {"URL": server_url, "PREFIX": prefix + ".{alias}"}
    project.configure({"orders": {"HANDLER": "tests.support.handlers.note"}}, options)
    settings.TASKS = {"default": {"BACKEND": "django_srq.tasks.SRQBackend", "QUEUES": ["mail"]}}
    return project


@pytest.fixture
def mail(project):
    return queues["mail"]


def items(project, *arguments: str) -> list[dict[str, object]]:
    code, out, _ = project.call("srq_show", "mail", *arguments, "--format", "json")
    assert code == 0
    return json.loads(out)


# -- srq_show


def test_a_list_shows_tasks_by_name_and_arguments(project, mail):
    failed(mail, task(17, password="geheim"), ValueError("no such user"))
    failed(mail, task("x" * 500), ValueError("no such user"), bury=False)
    mail.put(task(18, full=True))
    _, out, _ = project.call("srq_show", "mail")
    assert f"welcome(17, password={MASK}): ValueError: no such user" in out
    assert re.search(r"welcome\('x{50}…: ValueError: no such user", out)
    _, out, _ = project.call("srq_show", "mail", "--state", "ready")
    assert "welcome(18, full=True)" in out
    assert "geheim" not in out


def test_tasks_that_are_done_are_listed_newest_first(project, mail):
    uids = [
        done(mail, task(1), {"sent": 3, "token": "geheim"}),
        done(mail, task(2), error=ValueError("no such user")),
        done(mail, task(3)),
    ]
    code, out, err = project.call("srq_show", "mail", "--state", "done")
    assert (code, err) == (0, "")
    rows = [line.split(None, 4) for line in out.splitlines()[1:]]
    assert [(row[0], row[1]) for row in rows] == [(uid, "done") for uid in uids[::-1]]
    assert [line.partition("ago")[2].strip() for line in out.splitlines()[1:]] == [
        "welcome(3): None",
        "welcome(2): ValueError: no such user",
        f"welcome(1): {{'sent': 3, 'token': {MASK}}}",
    ]
    assert [item["uid"] for item in items(project, "--state", "done", "--limit", "2")] == uids[:0:-1]
    assert (
        "2 of 3 done items; --limit shows more"
        in project.call("srq_show", "mail", "--state", "done", "--limit", "2")[2]
    )


def test_more_tasks_that_are_done_than_a_page_has(project, mail):
    uids = [done(mail, task(n)) for n in range(230)]
    assert [item["uid"] for item in items(project, "--state", "done", "--limit", "500")] == uids[::-1]


def test_nothing_is_done(project, mail):
    code, out, err = project.call("srq_show", "mail", "--state", "done")
    assert (code, out, err) == (0, "", "mail: no item is done\n")
    done(mail, task(1))
    assert "there are 1 done (--state)" in project.call("srq_show", "mail")[2]
    assert project.call("srq_show", "orders", "--state", "done")[2] == "orders: no item is done\n"


def test_all_that_is_known_of_a_task_that_is_done(project, mail):
    uid = done(mail, task(17, password="geheim"), ["ok", 3])
    code, out, err = project.call("srq_show", "mail", uid)
    assert (code, err) == (0, "")
    facts = dict(line.split(None, 1) for line in out.splitlines() if line and not line.startswith(" "))
    assert facts["task"] == "shop.tasks.welcome"
    assert facts["call"] == f"welcome(17, password={MASK})"
    assert (facts["status"], facts["state"].split()[0], facts["returned"]) == ("SUCCESSFUL", "done", "['ok', 3]")
    assert "geheim" not in out


def test_a_task_that_failed_for_good_shows_its_error(project, mail):
    uid = done(mail, task(17), error=ValueError("no such user"))
    _, out, _ = project.call("srq_show", "mail", uid)
    assert re.search(r"error 1 of 1, delivery 1, .*\n  ValueError: no such user", out)
    (item,) = items(project, uid)
    assert (item["status"], item["return_value"]) == ("FAILED", None)
    assert [error["message"] for error in item["errors"]] == ["no such user"]


def test_a_cancelled_task_has_an_error_of_no_delivery(project, mail):
    uid = mail.put(task(17))
    outcome = {"s": "FAILED", "e": {"type": "django_srq.tasks.exceptions.TaskCancelled", "message": "cancelled"}}
    kept = operations.kept(60, 10, json.dumps(outcome).encode())
    assert mail.link.call(operations.cancel(mail.keys, uid, kept), queue="mail")
    _, out, _ = project.call("srq_show", "mail", uid)
    assert "TaskCancelled: cancelled" in out
    assert "delivery 0" not in out
    assert "consumer" not in out


@pytest.mark.parametrize(
    ("state", "status"), [("ready", "READY"), ("delayed", "READY"), ("in_flight", "RUNNING"), ("dead", "FAILED")]
)
def test_the_json_names_task_and_status(project, mail, state, status):
    uid = (
        failed(mail, task(1), ValueError("no"))
        if state == "dead"
        else mail.put(task(1), delay=60 * (state == "delayed"))
    )
    if state == "in_flight":
        mail.get(-1)
    (item,) = items(project, uid)
    assert (item["state"], item["task"], item["status"]) == (state, "shop.tasks.welcome", status)
    assert (item["finished"], item["return_value"]) == (None, None)


def test_the_json_of_a_task_that_is_done(project, mail):
    uid = done(mail, task(1), {"sent": 3, "token": "geheim"}, priority=5, headers={"trace": "4b"})
    (item,) = items(project, uid)
    known = ("state", "task", "status", "return_value", "payload", "priority", "headers")
    assert {name: item[name] for name in known} == {
        "state": "done",
        "task": "shop.tasks.welcome",
        "status": "SUCCESSFUL",
        "return_value": {"sent": 3, "token": MASK},
        "payload": task(1),
        "priority": 5,
        "headers": {"trace": "4b"},
    }  # fmt: skip
    assert item["put"] <= item["claimed"] <= item["finished"]
    assert items(project, "--state", "done") == [item]


def test_every_error_of_a_task_says_when_its_delivery_started(project, mail):
    uid = mail.put(task(1))
    for n in range(7):
        held = DeliveryRef(uid, mail.get(-1).token)
        error = json.dumps({"type": "ValueError", "message": f"no {n}", "keep": 9, "traceback": "line"}).encode()
        mail.link.call(operations.fail(mail.keys, held, error=error), queue="mail")
    (item,) = items(project, uid)
    assert [error["message"] for error in item["errors"]] == [f"no {n}" for n in range(6, -1, -1)]
    assert all(error["started"] <= error["time"] for error in item["errors"])


def test_an_item_of_a_handler_is_no_task(project):
    uid = queues["orders"].put(task(1))
    _, out, _ = project.call("srq_show", "orders", uid, "--format", "json")
    (item,) = json.loads(out)
    assert {name: item[name] for name in NO_TASK} == NO_TASK
    assert "status" not in project.call("srq_show", "orders", uid)[1]


def test_a_result_that_is_gone(project, mail):
    uid = done(mail, task(1))
    mail.purge_results()
    assert project.call("srq_show", "mail", uid)[0] == 1


# -- srq_status


def test_the_status_counts_tasks_that_are_done(project, mail):
    done(mail, task(1))
    _, out, _ = project.call("srq_status", "--format", "json")
    found = {queue["queue"]: (queue["tasks"], queue["done"]) for queue in json.loads(out)["queues"]}
    assert found == {"orders": (False, None), "mail": (True, 1)}
    _, out, _ = project.call("srq_status")
    head, orders, row = (line.split() for line in out.splitlines() if line.startswith(("QUEUE", "orders ", "mail ")))
    assert (head[-1], orders[-1], row[-1]) == ("DONE", "-", "1")
    assert "DONE" not in project.call("srq_status", "orders")[1]


def test_a_stuck_queue_of_tasks_names_the_command(project, mail):
    mail.put(task(1))
    _, out, _ = project.call("srq_status", "mail")
    assert "Start one: manage.py srq_consume mail" in out


# -- srq_purge


def rows(project, *arguments: str) -> dict[str, object]:
    code, out, _ = project.call("srq_purge", *arguments, "--format", "json")
    assert code == 0
    return json.loads(out)


def test_only_the_results_are_purged(project, mail):
    for n in range(3):
        done(mail, task(n))
    mail.put(task(1))
    assert mail.get(-1)
    failed(mail, task(2), ValueError("no"))
    assert (
        project.call("srq_purge", "mail", "--results", "--dry-run")[1]
        == "mail: would purge 3 results; 1 in flight would stay\n"
    )
    assert mail.snapshot().results == 3
    assert rows(project, "mail", "--results", "--no-input") == {
        "dry_run": False, "queues": [{"queue": "mail", "purged": 0, "spared_in_flight": 1, "results": 3}],
    }  # fmt: skip
    assert mail.snapshot().results == 0
    assert mail.counts() == {"ready": 0, "in_flight": 1, "delayed": 0, "dead": 1}


def test_a_purge_of_all_takes_the_results_too(project, mail):
    for n in range(3):
        done(mail, task(n))
    mail.put(task(1))
    assert project.call("srq_purge", "mail", "--dry-run")[1] == "mail: would purge 1 item and 3 results\n"
    assert rows(project, "mail", "--no-input")["queues"] == [
        {"queue": "mail", "purged": 1, "spared_in_flight": 0, "results": 3}
    ]
    assert (mail.snapshot().results, mail.counts()["ready"]) == (0, 0)


def test_a_purge_of_a_state_keeps_the_results(project, mail):
    done(mail, task(1))
    mail.put(task(2))
    (row,) = rows(project, "mail", "--state", "ready", "--no-input")["queues"]
    assert row == {"queue": "mail", "purged": 1, "spared_in_flight": 0}
    assert mail.snapshot().results == 1


def test_results_that_a_queue_has_from_before_are_purged(project, mail, settings):
    """The queue was for tasks once, and is for a handler now."""
    done(mail, task(1))
    mail.put(task(2))
    settings.TASKS = {}
    settings.SRQ_QUEUES = {"mail": {}}
    assert rows(project, "mail", "--results", "--no-input")["queues"][0]["results"] == 1


def test_results_and_a_state_exclude_each_other(project):
    code, _, err = project.call("srq_purge", "mail", "--results", "--state", "dead")
    assert (code, "--state or --results" in err) == (2, True)
    code, _, err = project.call("srq_purge", "mail", "--results", "--error", "ValueError")
    assert (code, "need --state dead" in err) == (2, True)


# -- srq_drop, srq_requeue


def test_dropping_a_task_that_is_done_deletes_its_result(project, mail):
    uid, other = done(mail, task(1)), done(mail, task(2))
    code, _, err = project.call("srq_drop", "mail", "--uid", uid, "--dry-run")
    assert (code, f"mail: {uid!r} is done; its result would be deleted" in err) == (0, True)
    assert mail.snapshot().results == 2
    code, _, err = project.call("srq_drop", "mail", "--uid", uid, "--uid", "gone", "--no-input")
    assert code == 0
    assert err.splitlines() == [
        "mail: no item 'gone': it was handled or deleted, or was never put",
        f"mail: {uid!r} is done; its result is deleted",
    ]
    assert [view.uid for view in mail.link.call(operations.finished(mail.keys), queue="mail").items] == [other]


def test_dead_tasks_are_requeued_by_their_group(project, mail):
    for name in ("shop.tasks.welcome", "shop.tasks.remind"):
        failed(mail, task(1, name=name), ValueError("no"))
    _, _, err = project.call("srq_requeue", "mail", "--dry-run")
    assert "1 shop.tasks.remind: ValueError" in err
    project.call("srq_requeue", "mail", "--error", "shop.tasks.remind: ValueError", "--no-input")
    assert mail.counts() == {"ready": 1, "in_flight": 0, "delayed": 0, "dead": 1}
