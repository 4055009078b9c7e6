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
}
DJANGO = "Django~=5.2.0"  # the newest that all of them name
ALONE = {"saferedisqueue"}  # its redis-py is too old for the others
STATUS = {"celery": "1"}  # after Ctrl-C; that of the others is 0
SHARED = "shop/gateway.py"  # it is in both projects of a page
PROJECT = "$ django-admin startproject mysite .\n$ python manage.py startapp shop\n"


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """What a terminal has in which a library is installed, and this package is not."""

    @cache
    def install(*libraries: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("libraries")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        wanted = [requirement for library in libraries for requirement in LIBRARIES[library]]
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, DJANGO, *wanted], check=True)
        return {**ENVIRONMENT, "PATH": f"{folder / 'bin'}:{ENVIRONMENT['PATH']}"}

    others = [library for library in LIBRARIES if library not in ALONE]
    return lambda library: install(library) if library in ALONE else install(*others)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_original_runs_as_written(
    library: str, environments: Callable[[str], dict[str, str]], tmp_path: Path, site: str
) -> None:
    page = list(blocks(MOVES / f"{library}.md"))
    assert {block.reason for block in page if block.note == "original"} == {library}
    chosen = [block for block in page if block.note == "original" or (block.file and block.file[0] == SHARED)]
    originals = [replace(block, note="exit", reason=STATUS.get(library, "0")) for block in chosen]
    session = Session(tmp_path, environments(library), site)
    try:
        session.execute([Block(0, "console", PROJECT), *originals])
    finally:
        session.close()


def test_every_library_has_its_page() -> None:
    assert {path.stem for path in MOVES.glob("*.md")} == set(LIBRARIES)
