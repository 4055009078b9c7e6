"""The pages for contributors name files, make targets and packages that exist."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT

PAGES = ("CONTRIBUTING.md", "SECURITY.md")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_the_files_exist(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    named = {*re.findall(r"`([\w./]+/[\w./]*)`", text), *re.findall(r"\]\(([^)]+)\)", text)}
    assert named
    assert {path for path in named if not (ROOT / path.partition("#")[0]).exists()} == set()


def test_the_make_targets_exist() -> None:
    named = set(
        re.findall(r"make ([a-z-]+)", "\n".join(re.findall(r"`make [^`]+`|^\$ make .*", CONTRIBUTING, re.MULTILINE)))
    )
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert named
    assert named <= targets


def test_the_packages_of_debian_are_those_that_the_makefile_names() -> None:
    listed = {
        target: set(packages.split())
        for targets, packages in re.findall(r"^\| (`make .+?) \| `([a-z0-9 -]+)` \|$", CONTRIBUTING, re.MULTILINE)
        for target in re.findall(r"make ([a-z-]+)", targets)
    }
    said = re.findall(r"^\t@echo 'make ([a-z-]+) .*\(Debian: ([a-z0-9 -]+)\)'$", MAKEFILE, re.MULTILINE)
    assert said
    for target, packages in said:
        assert set(packages.split()) <= listed[target]
