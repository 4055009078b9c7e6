"""The blocks of a page of the documentation, and what the tests are to do with each of them.

A page is Markdown. Its fenced blocks are the steps of one session, from top to bottom. Blocks inside HTML comments are
steps too, which a reader does not see.

A block whose first line is a comment with a path is a file (``# shop/handlers.py``, ``<!-- templates/base.html -->``).
With ``, at its end`` after the path, the block is appended to that file. An absolute path names a file of another
machine: a test of its own checks it.

An HTML comment in the line above a block says how the block differs from others:

* ``<!-- not run: reason -->``: it cannot run here;
* ``<!-- checked by: test_name -->``: a test of that name in ``tests/docs`` validates it in another way;
* ``<!-- exit: 1 -->``: its last command ends with this status, and not with 0;
* ``<!-- goes on -->``: its last command does not end. A later block that begins with the line ``^C`` ends it;
* ``<!-- alone -->``: a process of its own runs this Python;
* ``<!-- original: NAME -->``: it belongs to another library's project, which ``test_moves.py`` makes and runs.

A console block has commands (``$ …``) and their output; the output is compared where the page shows it. A line with
only … stands for any lines, … in a line for any characters. The line ``^C`` is Ctrl-C. Python without a path runs in
one process, in which Django is set up; a new process begins after each file that the page shows. ``pycon`` blocks are
doctests.

``redis://localhost:6379`` stands for a server of the session's own, and ``127.0.0.1:8000`` for a port of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?:<!-- (?P<note>[a-z ]+(?:: [^\n]+)?) -->\n)?(?P<ticks>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)
NAMED = re.compile(r"(?:#|//|;|--|<!--|\{#) (?P<path>[\w./*-]+?\.?[\w-]+)(?P<end>, at its end)?(?: -->| #\})?$")
RUN = frozenset({"python", "pycon", "console"})
NOTES = frozenset({"", "not run", "checked by", "exit", "goes on", "alone", "original"})


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    text: str
    note: str = ""
    reason: str = ""  # what follows the colon of the note

    @property
    def file(self) -> tuple[str, bool] | None:
        """The path of the file that the block shows, and whether it is appended."""
        first = self.text.partition("\n")[0]
        found = NAMED.match(first)
        if self.language == "console" or not found or not re.search(r"[./]|file$", found["path"]):
            return None
        if found["path"].startswith("/"):
            return None
        return found["path"], found["end"] is not None

    @property
    def runs(self) -> bool:
        """Whether a session executes the block, or writes its file."""
        return self.note not in ("not run", "original") and (self.file is not None or self.language in RUN)


def pages() -> list[Path]:
    """All pages of the site, and the README."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, but for the directives of Sphinx."""
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        if found["language"].startswith("{"):
            continue
        note, _, reason = (found["note"] or "").partition(": ")
        line = text.count("\n", 0, found.start("ticks")) + 1
        yield Block(line, found["language"].strip(), found["text"], note, reason)
