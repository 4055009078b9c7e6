"""Every snippet of the site and of the README: it runs as written, or another test validates it."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.docs.pages import NOTES, ROOT, RUN, Block, blocks, name, pages
from tests.docs.sessions import Session

PAGES = {name(page): page for page in pages()}
# A diagram or an output that belongs to no command.
PLAIN = frozenset({"", "text"})
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "HOME": os.environ.get("HOME", "/"),
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
    "PYTHONPATH": "",
    "NO_COLOR": "1",
    "COLUMNS": "100",
    "TERM": "dumb",
}
# The commands that make the project with which most pages begin.
MAKES_THE_PROJECT = ("django-admin startproject", "python manage.py startapp", "python manage.py migrate")


def runs(page: Path) -> bool:
    return any(block.runs for block in blocks(page))


def quick_start() -> list[Block]:
    """The files of the README's quick start, and the commands that make the project."""
    chosen = []
    for block in blocks(ROOT / "README.md"):
        if block.file:
            chosen.append(block)
        elif block.language == "console":
            lines = [line for line in block.text.splitlines() if line.removeprefix("$ ").startswith(MAKES_THE_PROJECT)]
            if lines:
                chosen.append(Block(block.line, "console", "\n".join(lines) + "\n"))
    return chosen


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of the README's quick start, before its first item."""
    folder = tmp_path_factory.mktemp("project")
    session = Session(folder, ENVIRONMENT, "127.0.0.1:8000")
    session.execute(quick_start())
    session.close()
    return folder


@pytest.mark.parametrize("page", [page for page, path in PAGES.items() if runs(path)])
def test_the_page_runs_as_written(page: str, project: Path, tmp_path: Path, site: str) -> None:
    """The README and Start begin in an empty folder, all other pages in the project of the README's quick start."""
    folder = tmp_path / "session"
    if page == "README.md" or page.startswith("docs/start/"):
        folder.mkdir()
    else:
        shutil.copytree(project, folder)
    session = Session(folder, ENVIRONMENT, site)
    try:
        session.execute(blocks(PAGES[page]))
    finally:
        session.close()


def test_every_block_is_run_or_checked() -> None:
    """A block that is not run says why, or names the test that validates it."""
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    wrong = []
    for page, path in PAGES.items():
        for block in blocks(path):
            explained = block.note in ("not run", "original") and block.reason
            known = block.runs or block.language in PLAIN or explained
            checked = block.note == "checked by" and f"def {block.reason}(" in tests
            if block.note not in NOTES or not (known or checked):
                wrong.append(f"{page}:{block.line} {block.language} {block.note}")
    assert wrong == []


def test_the_packages_that_pages_install() -> None:
    """A page may name extras of this package that exist, and other packages."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    extras = set(parser["options.extras_require"])
    text = "\n".join(block.text for path in PAGES.values() for block in blocks(path) if block.language in RUN)
    named = {extra for found in re.findall(r"django-srq\[([\w,-]+)\]", text) for extra in found.split(",")}
    assert named <= extras
