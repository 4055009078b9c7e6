"""A site with Wagtail: an editor saves a page, srq_consume updates the index, and the page is found by search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import ROOT
from tests.support.servers import Server

# The request of an editor who saves and publishes a page. Wagtail saves it in a transaction.
SAVE = """
from django.contrib.auth import get_user_model
from django.test import Client
from wagtail.models import Page

editor = get_user_model().objects.create_superuser("editor", "editor@example.com", "password")
browser = Client()
browser.force_login(editor)
home = Page.objects.get(depth=2)
response = browser.post(
    f"/cms/pages/add/press/article/{home.pk}/",
    {"title": "Harvest", "slug": "harvest", "text": "The first flush of Darjeeling", "action-publish": "1"},
)
assert response.status_code == 302, response.content.decode()
"""
FIND = """
import json
from tests.wagtail.models import Article

print(json.dumps([page.title for page in Article.objects.live().search("darjeeling")]))
"""


class Site:
    """A new site with a database and a server of its own."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "DJANGO_SETTINGS_MODULE": "tests.wagtail.settings",
            "SRQ_TEST_DATABASE": str(folder / "db.sqlite3"),
            "SRQ_TEST_QUEUE": server.url,
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments], env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def shell(self, code: str) -> str:
        return self.run("shell", "--no-imports", "--verbosity", "0", "--command", code).stdout

    def found(self) -> list[str]:
        return list(json.loads(self.shell(FIND)))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    server = Server()
    try:
        yield Site(tmp_path, server)
    finally:
        server.close()


def test_a_saved_page_is_found_when_the_tasks_have_run(site):
    assert "no issues" in site.run("check").stdout
    site.run("migrate", "--verbosity", "0")
    site.shell(SAVE)
    assert site.found() == []
    log = site.run("srq_consume", "--burst").stderr
    assert "modelsearch.tasks.insert_or_update_object_task" in log
    assert site.found() == ["Harvest"]
    (status,) = json.loads(site.run("srq_status", "--format", "json").stdout)["queues"]
    assert [status[state] for state in ("ready", "in_flight", "delayed", "dead")] == [0, 0, 0, 0]
