"""Checks each page in both themes and two widths: no objection by axe, policy or console, no sideways scroll."""

from __future__ import annotations

import pytest

from django_srq import operations

PAGES = {
    "overview": "",
    "ready": "queue/orders/",
    "searched": "queue/orders/?q=order",
    "in flight": "queue/orders/?state=in_flight",
    "delayed": "queue/orders/?state=delayed",
    "dead": "queue/orders/?state=dead",
    "all dead": "queue/orders/?state=dead&all=1&range=fortnight",
    "stuck": "queue/invoices/?range=day",
    "paused": "queue/mail/",
    "item": "queue/orders/item/?uid=order-1",
    "dead item": "queue/orders/item/?uid={dead}",
    "consumers": "consumers/",
    "activity": "activity/",
    "find": "find/",
    "not found": "find/?uid=gone",
    "pause": "queue/orders/pause/",
    "resume": "queue/mail/resume/",
    "put": "queue/orders/put/",
    "purge": "queue/orders/purge/?state=all&everything=1",
    "drop": "queue/orders/drop/?state=dead&everything=1",
    "requeue": "queue/orders/requeue/?state=dead&everything=1",
    "release": "queue/orders/release/?state=in_flight&everything=1",
}
POLICY = """
window.violated = [];
document.addEventListener("securitypolicyviolation", (e) => violated.push(e.violatedDirective + e.blockedURI));
"""


def dead_one(queue) -> str:
    """The uid of a dead item."""
    return queue.link.call(operations.list_items(queue.keys, "dead", count=1), queue="q").items[0].uid


def check(window, pages: dict[str, str], **named: str) -> None:
    """Open these pages, whose addresses have such names, and look at each."""
    window.page.add_init_script(POLICY)
    for name, path in pages.items():
        page = window.open(path.format(**named))
        for details in page.locator("#srq-live details").all()[:2]:
            details.evaluate("one => { one.open = true; }")
        assert window.violations() == [], name
        assert window.sideways() <= 0, name
        assert page.evaluate("violated") == [], name
        assert page.locator("#srq-live").inner_text().strip(), name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_is_accessible_and_fits(visit, scene, width, scheme):
    check(visit(width, scheme), PAGES, dead=dead_one(scene["orders"]))


@pytest.mark.parametrize("width", [1280, 390])
def test_a_long_alias_fits_into_the_window(visit, scene, settings, width):
    alias = "l" * 150
    settings.SRQ_QUEUES = {alias: settings.SRQ_QUEUES["orders"]}
    window = visit(width)
    here = f"queue/{alias}/"
    for path in (
        "",
        here,
        f"{here}?state=dead",
        f"{here}item/?uid=order-1",
        f"{here}pause/",
        "consumers/",
        "activity/",
    ):
        window.open(path)
        assert window.sideways() <= 0, path
    state = window.open().locator("td.srq-state").bounding_box()
    assert state["x"] + state["width"] <= width  # visible without scrolling the table


@pytest.mark.parametrize("width", [1280, 390])
def test_right_to_left_languages(visit, settings, width):
    settings.LANGUAGE_CODE = "he"
    window = visit(width, locale="he")
    for path in ("", "queue/orders/", "queue/orders/?state=dead", "queue/orders/purge/?state=all&everything=1"):
        page = window.open(path)
        assert page.locator("html").get_attribute("dir") == "rtl"
        assert window.sideways() <= 0, path
        finding = page.locator(".srq-findings li, .srq-question").first
        sides = finding.evaluate(
            "one => [getComputedStyle(one).borderRightWidth, getComputedStyle(one).borderLeftWidth]"
        )
        assert sides in (["4px", "0px"], ["0px", "0px"])
        assert window.violations() == [], path


def test_the_pages_in_german(visit, settings):
    window = visit(locale="de")
    page = window.open()
    assert "invoices steht: 41 bereit" in page.locator("#srq-live").inner_text()
    assert page.locator("html").get_attribute("lang") == "de"


def test_the_size_of_css_and_javascript(visit):
    """It also checks that nothing comes from another host."""
    window = visit()
    sizes, hosts = {}, set()

    def note(response) -> None:
        hosts.add(response.url.split("/")[2])
        if "django_srq/" in response.url and "/static/" in response.url:
            sizes[response.url] = len(response.body())

    window.page.on("response", note)
    window.open("queue/orders/")
    window.page.wait_for_load_state("networkidle")
    assert len(sizes) == 2
    assert sum(sizes.values()) <= 12 * 1024
    assert len(hosts) == 1


def test_the_not_found_pages(visit):
    window = visit()
    window.expected.append("404")  # the browser itself logs it
    for path in ("queue/nothing/", "queue/orders/item/?uid=gone"):
        page = window.open(path)
        assert page.locator(".srq-hint").inner_text()
        assert window.violations() == [], path
