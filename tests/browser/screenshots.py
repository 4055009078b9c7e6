"""``make screenshots``: the pictures of the README and the site, light and dark, of the queues of the browser tests."""

from __future__ import annotations

import linecache
import os
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
FOLDER = DOCS / "_static"
SIZE = {"width": 1280, "height": 720}
DEAD = "queue/orders/?state=dead"


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.browser.settings"
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    import django

    django.setup()
    from django.test.runner import DiscoverRunner
    from django.test.utils import setup_test_environment

    setup_test_environment()
    runner = DiscoverRunner(verbosity=0, interactive=False)
    databases = runner.setup_databases()
    try:
        _take()
    finally:
        runner.teardown_databases(databases)


def _take() -> None:
    from django.contrib.auth.models import User
    from django.contrib.staticfiles.testing import StaticLiveServerTestCase
    from django.test import Client, override_settings

    from django_srq import queues
    from tests.admin.test_admin import URL
    from tests.browser import showcase
    from tests.support.servers import Server

    class Site(StaticLiveServerTestCase):
        def runTest(self) -> None: ...

    server = Server(port=6379) if _is_free(6379) else Server()
    Site.setUpClass()
    try:
        with override_settings(SRQ_QUEUES=showcase.options(server.url, "shop")):
            showcase.fill(server.client(), queues)
            visitor = Client()
            visitor.force_login(User.objects.create_superuser("anna"))
            cookie = visitor.cookies["sessionid"].value
            _shoot(Site.live_server_url, URL, cookie, {"overview": ""})
        orders = {
            "URL": server.url,
            "PREFIX": "tutorial",
            "HANDLER": "tests.support.handlers.note",
            "MAX_DELIVERIES": 3,
        }
        with override_settings(SRQ_QUEUES={"orders": orders}):
            server.client().config_set("appendonly", "yes")  # as an embedded server does
            _fail_as_in_the_tutorial(queues["orders"])
            _shoot(Site.live_server_url, URL, cookie, {"tutorial": DEAD})
    finally:
        Site.tearDownClass()
        server.close()


def _is_free(port: int) -> bool:
    """Whether nobody listens on this port; the usual port looks best in a picture."""
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _fail_as_in_the_tutorial(orders: Any) -> None:
    """Let the order without an address die of the first handler that the tutorial shows."""
    from tests.docs.pages import blocks

    path, at_the_reader = "shop/handlers.py", "/home/anna/shop-tutorial/shop/handlers.py"
    shown = next(block.text for block in blocks(DOCS / "start" / "tutorial.md") if block.file == (path, False))
    linecache.cache[at_the_reader] = len(shown), None, shown.splitlines(keepends=True), at_the_reader
    names: dict[str, Any] = {}
    exec(compile(shown, at_the_reader, "exec"), names)
    orders.put({"order": 18})
    for _ in range(3):
        item = orders.get(-1)
        try:
            names["handle_order"](item.payload, item)
        except KeyError as error:
            orders.fail(item, error.with_traceback(error.__traceback__.tb_next))  # type: ignore[union-attr]


def _shoot(site: str, path: str, cookie: str, pages: dict[str, str]) -> None:
    """Make the pictures with these names of the pages with these addresses."""
    from playwright.sync_api import sync_playwright

    from tests.browser.conftest import chromium

    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport=SIZE, color_scheme=scheme, locale="en")  # type: ignore[arg-type]
            context.add_cookies([{"name": "sessionid", "value": cookie, "url": site}])
            page = context.new_page()
            for name, address in pages.items():
                page.goto(site + path + address)
                if address == DEAD:
                    page.locator("summary").last.click()
                    page.evaluate("window.scrollTo(0, 0)")  # the admin's sidebar scrolls with the page
                page.screenshot(path=FOLDER / f"{name}-{scheme}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
