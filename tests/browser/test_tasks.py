"""The pages of a queue of tasks, which needs Django 6.0."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from django_srq import operations
from tests.browser.test_accessibility import check, dead_one
from tests.browser.test_workflows import WITHOUT, confirm, message

PAGES = {
    "overview": "",
    "tasks": "queue/reports/",
    "dead tasks": "queue/reports/?state=dead",
    "all dead tasks": "queue/reports/?state=dead&all=1",
    "delayed tasks": "queue/reports/?state=delayed",
    "finished tasks": "queue/reports/?state=done",
    "task in flight": "queue/reports/?state=in_flight",
    "finished task": "queue/reports/item/?uid={done}",
    "dead task": "queue/reports/item/?uid={dead}",
    "cancel": "queue/reports/cancel/?state=delayed&everything=1",
    "run again": "queue/reports/run_again/?state=done&uid={done}",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_is_accessible_and_fits(visit, reports, width, scheme):
    done = reports.link.call(operations.finished(reports.keys, n=4), queue="q").items[3].uid
    check(visit(width, scheme), PAGES, dead=dead_one(reports), done=done)


@WITHOUT
def test_from_the_groups_to_the_attempts_of_a_task(visit, reports, script):
    page = visit(script=script).open("queue/reports/?state=dead")
    page.locator("li", has_text="shop.tasks.welcome: LookupError").get_by_role("link", name="Show items").click()
    page.get_by_role("link", name="welcome(4711, full=False)").click()
    expect(page.locator("details[open] pre")).to_contain_text("LookupError: no such customer: 4711")
    expect(page.locator("details")).to_have_count(3)


@WITHOUT
def test_run_finished_tasks_again(visit, reports, script):
    page = visit(script=script).open("queue/reports/")
    page.get_by_role("link", name="Finished 5").click()
    page.locator("tr", has_text="no such customer").locator('input[name="uid"]').check()
    page.get_by_role("button", name="Run selected again").click()
    expect(page.locator(".srq-question")).to_contain_text("Run 1 finished task of reports again")
    confirm(page, "Run again")
    message(page, "1 task is ready again.")
    assert (reports.counts()["ready"], reports.snapshot().results) == (4, 5)


@WITHOUT
def test_cancel_a_task(visit, reports, script):
    page = visit(script=script).open("queue/reports/?state=delayed")
    page.get_by_role("link", name="nightly()").click()
    page.get_by_role("button", name="Cancel task").click()
    expect(page.locator(".srq-question")).to_contain_text("Cancel 1 task of reports?")
    page.get_by_role("link", name="Back").click()
    assert reports.counts()["delayed"] == 2
    page.get_by_role("link", name="Delayed 2").click()
    page.get_by_role("link", name="nightly()").click()
    page.get_by_role("button", name="Cancel task").click()
    confirm(page, "Cancel tasks")
    message(page, "1 task was cancelled.")
    page.get_by_role("link", name="Finished 6").click()
    expect(page.locator("tr", has_text="nightly()")).to_contain_text("the task was cancelled before it ran")
