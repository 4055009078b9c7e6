"""The screen of a terminal, for a command that shows the same thing again and again."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from types import FrameType
from typing import NoReturn

from django.core.management.base import OutputWrapper

from django_srq.management.base import TERMINATED

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the alternate screen, without a cursor, and back
HOME, END_OF_LINE, REST = "\x1b[H", "\x1b[K", "\x1b[J"  # to the top; delete to the end of the line, of the screen
_COLOUR = re.compile(r"(\x1b\[[\d;]*m)")


@contextmanager
def alternate_screen(out: OutputWrapper) -> Iterator[None]:
    """Use the terminal's alternate screen within the block. The old screen is back after it, also after SIGTERM."""
    with _sigterm_as_exception():
        try:
            _write(out, ENTER)
            yield
        finally:
            _write(out, LEAVE)


def draw(out: OutputWrapper, lines: Sequence[str], width: int, height: int) -> None:
    """Replace what the screen shows by at most so many lines as it has; each is cut to the width."""
    # What was there is deleted in front of a line: behind one that fills its row, that would delete its last character.
    rest = "\n" + REST if len(lines) < height else ""
    _write(out, HOME + "\n".join(END_OF_LINE + _cut(line, width) for line in lines) + rest)


def _cut(line: str, width: int) -> str:
    """The beginning of a line. Codes of colours take no room, and all of them are kept, so that the last one is."""
    kept, room = [], width
    for place, part in enumerate(_COLOUR.split(line)):
        shown = part if place % 2 else part[: max(0, room)]
        room -= 0 if place % 2 else len(part)
        kept.append(shown)
    return "".join(kept)


def _write(out: OutputWrapper, text: str) -> None:
    out.write(text, ending="")
    out.flush()


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may install handlers, and only there do they run
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def fit(
    head: str, findings: Sequence[Sequence[str]], table: Sequence[str], footer: Sequence[str], height: int
) -> list[str]:
    """The lines that a screen has room for. What matters least is left out first: the footer, then the last findings
    and the last rows of the table, which share the room.
    """
    body = [head, *chain.from_iterable(findings), "", *table]
    if len(body) + 1 + len(footer) <= height:
        return [*body, "", *footer]
    if len(body) <= height:
        return body
    room = max(height - 2, 0)
    said = _first(findings, max(room - len(table), room // 2))
    return [head, *said, "", *_first([[row] for row in table], room - len(said))][:height]


def _first(parts: Sequence[Sequence[str]], room: int) -> list[str]:
    """As many lines of the first parts as there is room for; then a line that says how many parts are left out."""
    lines = list(chain.from_iterable(parts))
    if len(lines) <= room:
        return lines
    kept = lines[: max(room - 1, 0)]
    begun = sum(sum(map(len, parts[:number])) < len(kept) for number in range(len(parts)))
    left = len(parts) - begun
    return [*kept, f"… {left} more" if left else "…"]
