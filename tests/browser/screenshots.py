"""``make screenshots``: the pictures of the README, light and dark, of the queues that the browser tests use."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "_static"
SIZE = {"width": 1100, "height": 660}


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
            _shoot(Site.live_server_url, URL, visitor.cookies["sessionid"].value)
    finally:
        Site.tearDownClass()
        server.close()


def _is_free(port: int) -> bool:
    """Whether nobody listens on this port; the usual port looks best in a picture."""
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _shoot(site: str, path: str, cookie: str) -> None:
    from playwright.sync_api import sync_playwright

    from tests.browser.conftest import chromium

    pages = {"overview": "", "dead": "queue/orders/?state=dead"}
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport=SIZE, color_scheme=scheme, locale="en")  # type: ignore[arg-type]
            context.add_cookies([{"name": "sessionid", "value": cookie, "url": site}])
            page = context.new_page()
            page.goto(site + path)
            page.locator("#toggle-nav-sidebar").click()  # hides the admin's list of applications
            for name, address in pages.items():
                page.goto(site + path + address)
                if name == "dead":
                    page.locator("summary").last.click()
                page.screenshot(path=FOLDER / f"{name}-{scheme}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
