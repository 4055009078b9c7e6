"""The log of ``srq_consume`` in a project that configures no logging."""

from __future__ import annotations

import logging

from django.conf import settings

from django_srq.management.terminal_log import TerminalFormatter, style_for


class _Formatter(logging.Formatter):
    """Formats as logging.Formatter in half the time: it computes the time once a second, and adds the milliseconds."""

    _second, _text = 0, ""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info or record.stack_info:
            return super().format(record)
        return f"{self.formatTime(record)} {record.levelname} {record.getMessage()}"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._text = second, super().formatTime(record, self.default_time_format)
        return f"{self._text},{int(record.msecs):03d}"


def log_to_stderr(level: int, *, no_color: bool = False, force_color: bool = False) -> None:
    """Log to standard error, unless the project decides what becomes of the records.

    On a terminal, and with force_color, each record is a short line with colours. no_color: without these.
    """
    logger = logging.getLogger("django_srq")
    if _is_configured(logger):
        return
    handler = logging.StreamHandler()
    is_terminal = handler.stream is not None and handler.stream.isatty()
    if is_terminal or force_color:
        style = style_for(is_terminal=is_terminal, no_color=no_color, force_color=force_color)
        handler.setFormatter(TerminalFormatter(style))
    else:
        handler.setFormatter(_Formatter())
    # If the root logger gets a handler later, as from a library, no record is written twice.
    handler.addFilter(lambda record: not logging.getLogger().handlers)
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(level)


def _is_configured(logger: logging.Logger) -> bool:
    """Whether the project decides what becomes of the records: in LOGGING, by dictConfig or in code."""
    within = f"{logger.name}."
    loggers = [known for name, known in logging.root.manager.loggerDict.items() if name.startswith(within)]
    handled = logger.hasHandlers() or any(known.handlers for known in loggers if isinstance(known, logging.Logger))
    named = (name for name in (settings.LOGGING or {}).get("loggers", ()) if f"{name}.".startswith(within))
    return handled or not logger.propagate or any(named)
