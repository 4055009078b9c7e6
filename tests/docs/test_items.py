"""Snippets of the pages about items and handlers that no session can run."""

from __future__ import annotations

import re
import shlex

from tests.docs.pages import ROOT, blocks

LATER = ROOT / "docs" / "howto" / "later.md"


def test_the_crontab_puts_what_the_page_shows() -> None:
    """Five fields of the time, and the command of the page's session. Cron takes a plain % for the end of a line."""
    (crontab,) = [block.text for block in blocks(LATER) if block.note == "checked by"]
    comment, *entries = crontab.splitlines()
    assert comment.startswith("#")
    shown = [line for block in blocks(LATER) if block.language == "console" for line in block.text.splitlines()]
    for entry in entries:
        *times, command = entry.split(maxsplit=5)
        assert all(re.fullmatch(r"\*|\d{1,2}", time) for time in times), entry
        assert not re.search(r"(?<!\\)%", command), "a percent sign without a backslash"
        put = command.replace(r"\%", "%").partition(" && bin/")[2]
        assert shlex.split(put)[:3] == ["python", "manage.py", "srq_put"]
        assert f"$ {put}" in shown
