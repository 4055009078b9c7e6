"""Cancelling a task by its buttons. Needs Django 6.0, as a result names the exception of a cancelled task."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.test_workflows import WITHOUT, confirm, message


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
