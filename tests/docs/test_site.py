"""The built site: it asks no other host, all pages are in its table of contents, and all links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from tests.docs.pages import ROOT

DOCS = ROOT / "docs"
# The attributes by which a page has a browser fetch something. Links that a reader follows are not among them.
FETCHED = {"src", "srcset", "poster", "data", "background", "action", "formaction", "ping"}
ADDRESS = re.compile(r"(?:https?:)?//[\w.-]+")


class Html(HTMLParser):
    """The ids of a page, its links, and what a browser fetches to show it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self._code = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)
            elif tag == "a" and name == "href":
                self.links.append(value)
            elif name in FETCHED or name in ("href", "xlink:href"):
                self.fetched.append(value)
            elif name == "style":
                self.fetched += fetched_by_style(value)
        self._code = tag if tag in ("style", "script") else ""

    def handle_data(self, data: str) -> None:
        if self._code == "style":
            self.fetched += fetched_by_style(data)
        elif self._code == "script":
            self.fetched += ADDRESS.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self._code = ""


def fetched_by_style(text: str) -> list[str]:
    found = re.findall(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", text)
    return [address or imported for address, imported in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", DOCS, folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@cache
def read(page: Path) -> Html:
    return Html(page.read_text("utf-8"))


def pages_of(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_the_site_asks_no_other_host(site):
    asked = {page.relative_to(site): [*filter(ADDRESS.match, read(page).fetched)] for page in pages_of(site)}
    for style in site.rglob("*.css"):
        asked[style.relative_to(site)] = [*filter(ADDRESS.match, fetched_by_style(style.read_text("utf-8")))]
    assert len(asked) > len(pages_of(site)) > 30
    assert {name: found for name, found in asked.items() if found} == {}


def test_every_page_is_in_the_table_of_contents():
    toctrees = re.findall(r"```\{toctree\}\n(?::[^\n]*\n)*(.*?)```", (DOCS / "index.md").read_text("utf-8"), re.DOTALL)
    listed = [line for toctree in toctrees for line in toctree.splitlines() if line]
    written = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md") if "_build" not in page.parts}
    assert sorted(listed) == sorted(written - {"index"})


def test_every_link_within_the_site_leads_to_a_page_and_its_anchor(site):
    broken = []
    for page in pages_of(site):
        for link in read(page).links:
            target = urlsplit(urljoin(page.as_uri(), link))
            if target.scheme != "file":
                continue
            path, anchor = Path(unquote(target.path)), unquote(target.fragment)
            if not path.is_file() or (anchor and path.suffix == ".html" and anchor not in read(path).ids):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_the_pages_have_what_the_code_gives_them(site):
    """The parameters of the docstrings, and the help texts with the exit codes of the commands."""
    text = (site / "reference" / "queue.html").read_text("utf-8")
    assert {"django_srq.SafeRedisQueue.put", "django_srq.registry.Queue.put_on_commit"} <= Html(text).ids
    assert text.count("<strong>priority</strong>") == 1
    shown = (site / "reference" / "commands.html").read_text("utf-8")
    assert shown.count("exit codes:") == 10
    assert "--pythonpath" not in shown
