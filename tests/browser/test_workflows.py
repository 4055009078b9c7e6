"""The workflows of users: every action by its buttons, with and without JavaScript, with the mouse and the keyboard."""

from __future__ import annotations

import re

import pytest
from django.contrib.admin.models import LogEntry
from playwright.sync_api import Page, expect

from django_srq import queues

WITHOUT = pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])


def confirm(page: Page, button: str) -> None:
    page.locator(".srq-confirm").get_by_role("button", name=button, exact=True).click()


def message(page: Page, text: str) -> None:
    expect(page.locator(".messagelist")).to_contain_text(text)


@WITHOUT
def test_from_the_overview_to_the_traceback_in_two_clicks(visit, script):
    page = visit(script=script).open()
    page.get_by_role("link", name="Show dead items").click()
    page.locator("summary", has_text="no such customer: 4711").click()
    expect(page.locator("details[open] pre")).to_contain_text("LookupError: no such customer: 4711")


@WITHOUT
def test_requeue_a_group(visit, script):
    page = visit(script=script).open("queue/orders/?state=dead")
    page.get_by_role("link", name=re.compile("^Requeue: TimeoutError")).click()
    expect(page.locator(".srq-question")).to_contain_text("Requeue 3 dead items of orders?")
    confirm(page, "Requeue")
    message(page, "3 items are ready again.")
    assert queues["orders"].counts()["dead"] == 7


@WITHOUT
def test_drop_selected_items(visit, script):
    page = visit(script=script).open("queue/orders/?state=dead&all=1")
    for box in page.locator('input[type="checkbox"][name="uid"]').all()[:2]:
        box.check()
    page.get_by_role("button", name="Drop selected").click()
    expect(page.locator(".srq-question")).to_contain_text("Permanently delete 2 items of orders (Dead)?")
    confirm(page, "Drop")
    message(page, "2 items were deleted.")
    assert queues["orders"].counts()["dead"] == 8


def test_select_all_items_of_a_page(visit):
    page = visit().open("queue/orders/?state=dead&all=1")
    page.get_by_label("Select all items on this page").check()
    page.get_by_role("button", name="Requeue selected").click()
    expect(page.locator(".srq-question")).to_contain_text("10 dead items")
    page.get_by_role("link", name="Cancel").click()
    assert queues["orders"].counts()["dead"] == 10


@WITHOUT
def test_return_an_item_to_the_queue(visit, script):
    page = visit(script=script).open("queue/orders/?state=in_flight")
    page.get_by_role("link", name="order-1").click()
    page.get_by_role("button", name="Return to queue").click()
    expect(page.locator(".srq-confirm")).to_contain_text("the item is handled twice")
    confirm(page, "Return to queue")
    message(page, "1 item is ready again.")
    assert queues["orders"].counts()["in_flight"] == 1


@WITHOUT
def test_pause_and_resume(visit, script):
    page = visit(script=script).open("queue/thumbnails/")
    page.get_by_role("link", name="Pause", exact=True).click()
    page.get_by_label("Reason").fill("deploy")
    confirm(page, "Pause")
    message(page, "The queue is paused")
    expect(page.locator(".srq-findings")).to_contain_text("thumbnails is paused (by anna")
    page.get_by_role("link", name="Resume").click()
    confirm(page, "Resume")
    message(page, "Consumers take items again")
    assert queues["thumbnails"].snapshot().paused is None


@WITHOUT
def test_put_an_item(visit, script):
    page = visit(script=script).open("queue/imports/")
    page.get_by_role("link", name="Put an item").click()
    page.get_by_label("Payload").fill("{")
    confirm(page, "Put an item")
    expect(page.locator(".errorlist")).to_contain_text("This is not valid JSON")
    page.get_by_label("Payload").fill('{"file": 1}')
    confirm(page, "Put an item")
    message(page, "was put.")
    assert [item.payload for item in queues["imports"].items()] == [{"file": 1}]


@WITHOUT
def test_purge_asks_for_the_name_of_the_queue(visit, script):
    page = visit(script=script).open("queue/orders/")
    page.get_by_role("link", name="Purge", exact=True).click()
    page.get_by_label("type the name of the queue").fill("order")
    confirm(page, "Purge")
    expect(page.locator(".srq-confirm")).to_contain_text("The name does not match.")
    page.get_by_label("type the name of the queue").fill("orders")
    confirm(page, "Purge")
    message(page, "156 items were deleted.")
    assert queues["orders"].counts() == {"ready": 0, "in_flight": 2, "delayed": 0, "dead": 0}


@pytest.fixture
def many(scene, client):
    queue = queues["imports"]
    with client.pipeline() as pipe:
        for n in range(3500):
            pipe.hset(queue.keys["items"], f"dead-{n}", b"1")
            pipe.zadd(queue.keys["dead"], {f"dead-{n}": 1000 + n})
        pipe.execute()
    return queue


def test_an_operation_continues_by_itself(visit, many):
    page = visit().open("queue/imports/drop/?state=dead&everything=1")
    confirm(page, "Drop")
    expect(page.get_by_role("status").filter(has_text="3500 items were deleted.")).to_be_visible(timeout=30_000)
    page.get_by_role("link", name="Back to the queue").click()
    expect(page.locator("#srq-live")).to_contain_text("No dead items.")


def test_without_javascript_an_operation_is_continued_and_stopped_by_buttons(visit, many):
    page = visit(script=False).open("queue/imports/requeue/?state=dead&everything=1")
    confirm(page, "Requeue")
    expect(page.get_by_role("status")).to_contain_text("1000 items are ready again.")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("status")).to_contain_text("2000 items are ready again.")
    page.get_by_role("button", name="Stop").click()
    message(page, "Stopped. 2000 items are ready again.")
    assert many.counts()["dead"] == 1500


def test_stop_takes_effect_after_the_current_batch(visit, many):
    page, held = visit().open("queue/imports/drop/?state=dead&everything=1"), []
    page.route("**/operation/", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request("**/operation/"):
        confirm(page, "Drop")
    page.get_by_role("button", name="Stop").click()
    held[0].continue_()
    message(page, "Stopped. 2000 items were deleted.")
    assert many.counts()["dead"] == 1500
    assert LogEntry.objects.get().change_message == "Dropped 2000 items (dead), stopped"


@WITHOUT
def test_find_and_search(visit, script):
    page = visit(script=script).open()
    page.get_by_label("Item", exact=True).fill("order-1")
    page.get_by_label("Item", exact=True).press("Enter")
    expect(page.locator("#srq-live")).to_contain_text("Timeline")
    page.goto(page.url.partition("item/")[0])
    page.get_by_label("Text").fill('"order": 4123')
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#srq-live tbody tr")).to_have_count(1)


def test_the_pages_work_with_the_keyboard(visit):
    page = visit().open()
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))
        if seen[-1] == "orders":
            break
    assert {"Overview", "Consumers", "Activity", "srq-find", "Find"} <= set(seen)
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("h1", has_text="orders")).to_be_visible()


def test_the_copy_button_copies_the_traceback(visit):
    window = visit()
    window.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = window.open("queue/orders/?state=dead")
    page.locator("summary").first.click()
    page.get_by_role("button", name="Copy").first.click()
    expect(page.locator(".srq-said")).to_have_text("Copied.")
    assert "Error" in page.evaluate("navigator.clipboard.readText()")


def test_the_copy_button_is_hidden_without_a_clipboard(visit):
    """Browsers offer no clipboard on a page without HTTPS."""
    window = visit()
    window.page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page = window.open("queue/orders/?state=dead&all=1")
    page.locator("summary").first.click()
    expect(page.locator(".srq-all")).to_be_visible()
    expect(page.locator("details[open] pre")).to_be_visible()
    expect(page.locator(".srq-copy").first).to_be_hidden()


# -- live updates


@pytest.fixture
def quick(monkeypatch):
    """Shortens the interval between updates."""
    from django_srq.admin import frame

    monkeypatch.setattr(frame, "EVERY", 0.2)


def number(page: Page, tab: str) -> str:
    return page.locator(".srq-tabs a", has_text=tab).locator("b").inner_text()


def test_the_page_updates_itself(visit, quick):
    page = visit().open("queue/imports/")
    assert number(page, "Ready") == "0"
    queues["imports"].put(1)
    expect(page.locator(".srq-tabs a", has_text="Ready").locator("b")).to_have_text("1")


def test_the_page_does_not_update_while_it_is_used(visit, quick):
    page = visit().open("queue/imports/")
    page.locator(".srq-tabs a").first.focus()
    expect(page.locator(".srq-said")).to_have_text("Not updated while you are using this page.")
    queues["imports"].put(1)
    page.wait_for_timeout(600)
    assert number(page, "Ready") == "0"
    page.locator("#srq-find").focus()
    expect(page.locator(".srq-tabs a", has_text="Ready").locator("b")).to_have_text("1")
    expect(page.locator(".srq-said")).to_have_text("")


def test_updates_can_be_paused(visit, quick):
    page = visit().open("queue/imports/")
    page.get_by_role("button", name="Pause updates").click()
    expect(page.locator(".srq-said")).to_have_text("Updates are paused.")
    queues["imports"].put(1)
    page.wait_for_timeout(600)
    assert number(page, "Ready") == "0"
    page.get_by_role("button", name="Resume updates").click()
    expect(page.locator(".srq-tabs a", has_text="Ready").locator("b")).to_have_text("1")


def test_a_hidden_page_does_not_update(visit, quick):
    page = visit().open("queue/imports/")
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => window.away ?? true})")
    page.wait_for_timeout(400)
    queues["imports"].put(1)
    page.wait_for_timeout(600)
    assert number(page, "Ready") == "0"
    page.evaluate("window.away = false")
    expect(page.locator(".srq-tabs a", has_text="Ready").locator("b")).to_have_text("1")


def test_the_page_says_that_the_site_does_not_answer(visit, quick):
    window = visit()
    window.expected.append("ERR_FAILED")  # the browser itself logs it
    page = window.open("queue/imports/")
    page.route("**/queue/imports/", lambda route: route.abort())
    expect(page.locator(".srq-said")).to_have_text("Not updated: the site does not answer.")
    page.unroute("**/queue/imports/")
    expect(page.locator(".srq-said")).to_have_text("")


def test_the_page_says_that_the_session_is_over(visit, quick):
    window = visit()
    page = window.open("queue/imports/")
    page.context.clear_cookies()
    expect(page.locator(".srq-said")).to_have_text("Not updated: log in again.")
