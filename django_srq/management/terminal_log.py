"""The log of ``srq_consume`` on a terminal: a short line for each record, with coloured words."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from django.core.management.color import Style, color_style, no_style

UID_MOST = 13  # characters of a uid that is shown whole; of a longer one the end is, as version 7 uids begin alike


class _Word(NamedTuple):
    text: str
    role: str  # of Django's palettes


_WORDS = {"acked": _Word("acked", "SUCCESS"), "discarded": _Word("discarded", "WARNING")}
_FAILED = {"dead": _Word("dead", "ERROR"), "lost": _Word("lost", "WARNING")}  # by the state of the item
_POSTPONED, _RETRIED = _Word("postponed", "HTTP_NOT_MODIFIED"), _Word("retrying", "WARNING")
_WIDTH = 9


def style_for(*, is_terminal: bool, no_color: bool, force_color: bool) -> Style:
    """The colours, as Django's commands choose them for standard output."""
    coloured = not no_color and (force_color or is_terminal)
    return color_style(force_color=True) if coloured else no_style()


class TerminalFormatter(logging.Formatter):
    def __init__(self, style: Style) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._palette = style

    def formatMessage(self, record: logging.LogRecord) -> str:
        time = self.formatTime(record, self.datefmt)
        return f"{time} {self._item(record) if {'uid', 'outcome'} <= vars(record).keys() else self._other(record)}"

    def usesTime(self) -> bool:
        return False  # formatMessage does it

    def _item(self, record: Any) -> str:
        word = _word(record)
        parts = [self._coloured(word.role, f"{word.text:{_WIDTH}}"), _short(record.uid), record.queue]
        if task := getattr(record, "task", ""):
            parts.append(task)
        if hasattr(record, "duration"):  # of an item whose process ended, nobody knows it exactly
            parts.append(f"{record.duration:.3f}s")
        if said := ": ".join(filter(None, [record.error, record.reason])):
            parts.append(said)
        return " ".join(parts)

    def _other(self, record: logging.LogRecord) -> str:
        if record.levelno < logging.WARNING:
            return record.message
        role = "WARNING" if record.levelno < logging.ERROR else "ERROR"
        return f"{self._coloured(role, f'{record.levelname.lower():{_WIDTH}}')} {record.message}"

    def _coloured(self, role: str, text: str) -> str:
        return str(getattr(self._palette, role)(text))


def _word(record: Any) -> _Word:
    if record.outcome != "failed":
        return _WORDS[record.outcome]
    if record.levelno < logging.WARNING:
        return _POSTPONED
    return _FAILED.get(record.state, _RETRIED)


def _short(uid: str) -> str:
    return uid if len(uid) <= UID_MOST else f"…{uid[1 - UID_MOST :]}"
