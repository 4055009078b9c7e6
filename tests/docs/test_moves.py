"""The projects that the pages of "Move from" begin with run as written, with the libraries themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks
from tests.docs.sessions import Session
from tests.docs.test_pages import ENVIRONMENT

MOVES = ROOT / "docs" / "move"
LIBRARIES = {
    "saferedisqueue": ["saferedisqueue==3.0.0", "redis==2.10.6", "setuptools<81"],
    "django-rq": ["django-rq==4.2.0"],
    "celery": ["celery[redis]==5.7.0"],
    "huey": ["huey==3.5.4"],
    "dramatiq": ["dramatiq==2.2.1", "django-dramatiq==0.15.0"],
    "django-tasks-db": ["django-tasks-db==0.13.0"],
    "django-tasks-redis": ["django-tasks-redis==0.4.0"],
    "django-tasks-rq": ["django-tasks-rq==0.12.0"],
}
PAGES = {library: "django-tasks" if library.startswith("django-tasks-") else library for library in LIBRARIES}
# Libraries that share an environment: with the newest Django that all of them name; and one whose redis-py is older.
DJANGO = {"saferedisqueue": "Django~=5.2.0", "django-tasks": "Django~=6.1.0", "": "Django~=5.2.0"}
STATUS = {"celery": "1"}  # after Ctrl-C; that of the others is 0
SHARED = {"shop/gateway.py", "shop/tasks.py", "shop/orders.py"}  # in both projects of a page, if not marked as original
PROJECT = "$ django-admin startproject mysite .\n$ python manage.py startapp shop\n"


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """What a terminal has in which a library is installed, and this package is not."""

    def shared(library: str) -> str:
        return PAGES[library] if PAGES[library] in DJANGO else ""

    @cache
    def install(group: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("libraries")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        wanted = [each for library in LIBRARIES if shared(library) == group for each in LIBRARIES[library]]
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, DJANGO[group], *wanted], check=True)
        return {**ENVIRONMENT, "PATH": f"{folder / 'bin'}:{ENVIRONMENT['PATH']}"}

    return lambda library: install(shared(library))


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_original_runs_as_written(
    library: str, environments: Callable[[str], dict[str, str]], tmp_path: Path, site: str
) -> None:
    page = list(blocks(MOVES / f"{PAGES[library]}.md"))
    originals_of = {block.reason for block in page if block.note == "original"}
    assert originals_of == {other for other in LIBRARIES if PAGES[other] == PAGES[library]}
    own = {block.file[0] for block in page if block.note == "original" and block.file}
    chosen = [
        block
        for block in page
        if (block.note == "original" and block.reason == library)
        or (block.file and not block.note and block.file[0] in SHARED - own)
    ]
    originals = [replace(block, note="exit", reason=STATUS.get(library, "0")) for block in chosen]
    session = Session(tmp_path, environments(library), site)
    try:
        session.execute([Block(0, "console", PROJECT), *originals])
    finally:
        session.close()


def test_every_library_has_its_page() -> None:
    assert {path.stem for path in MOVES.glob("*.md")} == set(PAGES.values())
