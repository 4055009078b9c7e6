"""Operate has an entry for each finding of the status."""

from __future__ import annotations

import re

from django_srq.status.verdicts import LEVELS
from tests.docs.pages import ROOT


def test_each_finding_has_an_entry_with_its_level():
    text = (ROOT / "docs" / "howto" / "operate.md").read_text("utf-8").split("\n## The findings\n")[1]
    entries = re.findall(r"^### (\w+)\n\n\*\*(\w+)[^*]*\*\* (.+)", text, re.MULTILINE)
    assert [(kind, level.lower()) for kind, level, _ in entries] == list(LEVELS.items())
