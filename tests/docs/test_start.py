"""The facts of the pages of Start and of the README agree with the package and with the measurements."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

START = ROOT / "docs" / "start"
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")
# A row of the measurements, and where its columns are.
PEERS = ("rq 2.12", "celery 5.7", "huey 3.5", "dramatiq 2.2", "django-tasks-redis 0.4")
PUT, ONE, FOUR = 1, 3, 5


def cells(page: Path) -> dict[str, list[str]]:
    """The rows of a page's tables by their first cells, without marks; of several rows with one name, the last."""
    lines = [line.replace("**", "") for line in page.read_text("utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row for row in rows}


def classifiers(name: str) -> list[str]:
    return re.findall(rf"^{re.escape(name)} :: (\d+\.\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE)


def test_install_lists_the_extras_and_the_versions() -> None:
    rows = cells(START / "install.md")
    extras = [name.removeprefix("django-srq[").rstrip("]") for name in rows if name.startswith("django-srq[")]
    assert extras == list(SETUP["options.extras_require"])
    assert rows["Python"][1].split(", ") == classifiers("Programming Language :: Python")
    assert rows["Django"][1].split(", ") == classifiers("Framework :: Django")
    oldest, first_without = re.search(r"^redis>=([\d.]+),<(\d+)$", SETUP["options"]["install_requires"], re.M).groups()
    assert rows["redis-py"][1] == f"{oldest} to {int(first_without) - 1}"


def shares() -> dict[str, tuple[float, ...]]:
    """What the peers reach of our figures: puts, and drains with one and with four processes."""
    measured = {
        name: [float(cell.replace(",", "")) if cell[:1].isdigit() and " " not in cell else 0 for cell in row]
        for name, row in cells(ROOT / "docs" / "optimisations.md").items()
        if len(row) == 7
    }
    ours = measured["django-srq"]
    return {peer: tuple(measured[peer][column] / ours[column] for column in (PUT, ONE, FOUR)) for peer in PEERS}


@pytest.mark.parametrize("peer", PEERS)
def test_the_shares_of_the_peers_are_those_measured(peer: str) -> None:
    put, one, four = (f"{share:.2f}" for share in shares()[peer])
    assert cells(START / "about.md")[peer][1:4] == [one, four, put]
    in_readme = {name.partition(",")[0]: row[-1] for name, row in cells(ROOT / "README.md").items()}
    assert in_readme[peer.rpartition(" ")[0]] == one
