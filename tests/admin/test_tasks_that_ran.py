"""The pages of tasks that a consumer ran. Needs Django 6.0."""

from __future__ import annotations

import html as html_module
import re
from dataclasses import replace

import pytest
from django.tasks import TaskResultStatus, default_task_backend

from django_srq import queues
from tests.admin.test_admin import visitor
from tests.admin.test_pages import read, said
from tests.admin.test_tasks import MAIL, confirmed, mail
from tests.tasks import shop
from tests.tasks.consuming import consume

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.versions]
__all__ = ["mail"]  # a fixture


def of_mail(task, **options):
    return replace(task, queue_name="mail", **options)


def test_the_result_of_a_task_that_ran(mail):
    result = of_mail(shop.add).enqueue(3, b=4)
    consume("mail")
    root = visitor("superuser")
    assert f"add(3, b=4) {result.id} successful 7" in said(root, f"{MAIL}?state=done")
    text = said(root, f"{MAIL}item/?uid={result.id}")
    assert "Task tests.tasks.shop.add" in text
    assert "Status SUCCESSFUL" in text
    assert "Return value 7" in text
    assert re.search(r"Attempts 1\. \S+ [\d:]+ successful · ", text)


def test_a_task_that_failed_in_each_attempt(mail):
    result = of_mail(shop.fail, max_attempts=3).enqueue("not today")
    consume("mail")
    root = visitor("superuser")
    html = read(root, f"{MAIL}?state=dead")
    assert "<h2>tests.tasks.shop.fail: tests.tasks.shop.Odd shop.py:fail</h2>" in html
    text = said(root, f"{MAIL}item/?uid={result.id}")
    attempts = re.findall(r"(\d)\. \S+ [\d:]+ failed · \S+ s · (\S+) tests.tasks.shop.Odd: not today", text)
    assert [number for number, _ in attempts] == ["3", "2", "1"]
    assert {worker for _, worker in attempts} == set(default_task_backend.get_result(result.id).worker_ids)
    confirmed(root, "requeue", "dead", result.id)
    assert default_task_backend.get_result(result.id).status == TaskResultStatus.READY


def test_a_task_that_no_consumer_knows(mail):
    mail.put({"task": "shop.tasks.gone", "args": [1], "kwargs": {}})
    consume("mail")
    html = read(visitor("superuser"), f"{MAIL}?state=dead")
    (title,) = re.findall(r"<h2>(.*?)</h2>", html)
    assert title.startswith("shop.tasks.gone: ")
    assert "cannot be imported" in html_module.unescape(html)


def test_a_finished_task_runs_again(mail):
    result = of_mail(shop.add).enqueue(3, b=4)
    consume("mail")
    root = visitor("superuser")
    confirmed(root, "run_again", "done", result.id)
    consume("mail")
    assert said(root, f"{MAIL}?state=done").count("add(3, b=4)") == 2
    assert default_task_backend.get_result(result.id).return_value == 7


def test_a_unique_task_runs_again_as_itself(mail):
    task = of_mail(shop.add, unique=True)
    result = task.enqueue(3, b=4)
    consume("mail")
    first = default_task_backend.get_result(result.id)
    confirmed(visitor("superuser"), "run_again", "done", result.id)
    again = task.enqueue(3, b=4)
    assert (again.id, again.status) == (result.id, TaskResultStatus.READY)
    assert again.enqueued_at > first.finished_at
    consume("mail")
    assert default_task_backend.get_result(result.id).return_value == 7
    assert mail.snapshot().results == 1


def test_a_cancelled_task_has_failed_and_does_not_run(mail):
    result = of_mail(shop.add).enqueue(3, b=4)
    confirmed(visitor("superuser"), "cancel", "ready", result.id)
    found = default_task_backend.get_result(result.id)
    assert (found.status, [error.exception_class.__name__ for error in found.errors]) == (
        TaskResultStatus.FAILED,
        ["TaskCancelled"],
    )
    assert consume("mail") == 0


def test_a_queue_that_keeps_no_results_can_cancel_too(mail, settings):
    settings.TASKS = {"default": {**settings.TASKS["default"], "OPTIONS": {"RESULT_TTL": 0}}}
    uid = of_mail(shop.add).enqueue(1).id
    confirmed(visitor("superuser"), "cancel", "ready", uid)
    assert (queues["mail"].counts()["ready"], queues["mail"].snapshot().results) == (0, 0)
