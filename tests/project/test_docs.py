"""Compares the pages that describe the code with the code."""

from __future__ import annotations

import re
from pathlib import Path

from django_srq.operations import scripts

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "django_srq"
LUA = PACKAGE / "operations" / "lua"
MAP = (ROOT / "docs" / "architecture.md").read_text("utf-8")
KEYS = (ROOT / "docs" / "reference" / "keys.md").read_text("utf-8")
FOLDERS = ("django_srq", "tests", "testproject", "benchmarks")
TO_COME = {"sentinel.py", "cluster.py"}


def test_the_map_names_only_files_that_exist():
    """The map names a file by its whole path, or by a file name that exists only once."""
    named = set(re.findall(r"`([\w/]+\.(?:py|lua))`", MAP))
    ours = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.[pl]*")]
    existing = {str(path.relative_to(ROOT)) for path in ours}
    tails = {"/".join(path.split("/")[n:]) for path in existing for n in range(path.count("/") + 1)}
    assert {name for name in named if name not in tails and name.rpartition("/")[2] not in TO_COME} == set()


def test_the_map_names_every_package():
    packages = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("__init__.py")} - {Path(".")}
    missing = {
        str(package) for package in packages if f"`{package}/`" not in MAP and str(package) != "management/commands"
    }
    assert missing == set()


def test_all_keys_are_described_with_their_types():
    rows = re.findall(r"^\| (`:.+?) \| (\w+)", KEYS, re.MULTILINE)
    described = {name: kind for names, kind in rows for name in re.findall(r"`:(\w+)`", names)}
    assert {name: kind.removesuffix("s") for name, kind in described.items()} == scripts.key_types()


def test_all_fields_of_meta_are_described():
    source = "".join(path.read_text("utf-8") for path in LUA.rglob("*.lua"))
    used = set(re.findall(r"\bfacts\.(\w+)", source)) | set(re.findall(r"\bmeta, '(\w+)'", source))
    described = set(re.findall(r"`(\w+)`", KEYS.partition("## The fields of `:meta`")[2]))
    assert used - described - {"cursor"} == set()
