"""The README is a front page: short, with links that lead somewhere. ``tests/docs`` runs its commands and snippets."""

from __future__ import annotations

import re

from tests.support.project import ROOT

README = (ROOT / "README.md").read_text("utf-8")
MOST = 900  # words
PROSE = re.sub(r"<!--.*?-->|^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)


def test_it_is_short():
    words = re.sub(r"<[^>]*>|\]\([^)]*\)|[|#*`\[\]-]", " ", PROSE).split()
    assert len(words) <= MOST


def test_it_has_the_commands_for_a_fresh_clone():
    commands = [line for line in README.splitlines() if line.startswith("$ make ")]
    assert {"$ make demo", "$ make test"} <= {line.partition("  #")[0].rstrip() for line in commands}


def test_each_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", PROSE)
    relative = {target.partition("#")[0] for pair in links for target in pair if target and "://" not in target}
    assert relative
    assert {target for target in relative - {""} if not (ROOT / target).is_file()} == set()


def test_each_of_the_six_guarantees_is_there():
    guarantees = re.findall(r"^(\d)\. \*\*.+?\*\*", README, re.MULTILINE | re.DOTALL)
    assert guarantees == list("123456")
