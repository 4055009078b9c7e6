"""A real Chromium, on pages of a live server. Without Chromium the tests fail; they are not skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import axe_playwright_python
import django
import pytest
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from django_srq import queues
from tests.admin.test_admin import URL
from tests.browser import showcase

if django.VERSION < (6, 0):  # there are no tasks
    collect_ignore = ["test_tasks.py"]
expect.set_options(timeout=30_000)  # ms; a busy machine may need longer than the default of 5 s
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
NAMES = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Playwright runs an event loop in this thread; nothing else runs in it."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:.*blocks the event loop:RuntimeWarning"))


def chromium() -> str:
    found = os.environ.get("SRQ_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    assert found, "no Chromium: install one (Debian's package is chromium), or name it in SRQ_CHROMIUM"
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    # Playwright runs an event loop in this thread, and Django refuses to use the database beside one.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        # Root and most containers cannot use Chromium's sandbox; it opens only pages of this test.
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page in the browser, and checks of that page."""

    page: Page
    base: str
    said: list[str] = field(default_factory=list)  # messages on the console
    expected: list[str] = field(default_factory=lambda: ["favicon"])  # what a message may have in it

    def note(self, message: str) -> None:
        if not any(word in message for word in self.expected):
            self.said.append(message)

    def open(self, path: str = "") -> Page:
        self.page.goto(self.base + path)
        return self.page

    def violations(self) -> list[str]:
        """The faults that axe finds in the page."""
        # The content security policy does not apply to evaluate.
        self.page.evaluate(AXE.read_text("utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            f"{violation['id']}: {node['html']} {node['failureSummary']}"
            for violation in found
            for node in violation["nodes"]
        ]

    def sideways(self) -> int:
        """The number of pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture
def scene(settings, server_url, prefix, client, transactional_db):
    """Queues in all kinds of states."""
    settings.SRQ_QUEUES = showcase.options(server_url, prefix)
    settings.SRQ_ADMIN = {"TIMEOUT": 20}  # a busy machine must not count as a server that is down
    showcase.fill(client, queues)
    return queues


@pytest.fixture
def reports(scene, settings, server_url, prefix, client):
    """A queue of tasks beside them."""
    settings.TASKS = showcase.tasks(server_url, prefix)
    showcase.fill_tasks(client, queues["reports"])
    return queues["reports"]


@pytest.fixture
def cookie() -> str:
    visitor = Client()
    visitor.force_login(User.objects.create_superuser("anna"))
    return visitor.cookies["sessionid"].value


@pytest.fixture
def visit(scene, browser, live_server, cookie) -> Iterator[object]:
    """Opens windows: ``visit(width=390, scheme="dark", script=False)``. The consoles must be empty at the end."""
    contexts: list[BrowserContext] = []
    visits: list[Visit] = []

    def begin(width: int = 1280, scheme: str = "light", *, script: bool = True, locale: str = "en") -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script, locale=locale
        )
        contexts.append(context)
        context.add_cookies([{"name": "sessionid", "value": cookie, "url": live_server.url}])
        visit = Visit(context.new_page(), live_server.url + URL)
        visit.page.on("console", lambda message: visit.note(f"{message.text} ({message.location})"))
        visit.page.on("pageerror", lambda error: visit.note(str(error)))
        visits.append(visit)
        return visit

    yield begin
    for context in contexts:
        context.close()
    for visit in visits:
        assert visit.said == []
