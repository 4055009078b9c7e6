"""Loggers that raise nothing into the code that logs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from django_srq.runtime.interruption import is_interruption

_printer = logging.Handler()  # its handleError prints the error that is being handled


def guarded(name: str, passes: Callable[[BaseException], bool] = is_interruption) -> logging.Logger:
    """A logger that survives errors of its filters and handlers, which are the project's: the error is printed.

    passes: says which errors are none of the log's. Where code of ours runs in the project's processes, it is
    ``may_be_interruption``.
    """
    logger = logging.getLogger(name)
    if not isinstance(logger.handle, partial):
        logger.handle = partial(_handle, logger.handle, passes)  # type: ignore[method-assign]
    return logger


def _handle(
    handle: Callable[[logging.LogRecord], None], passes: Callable[[BaseException], bool], record: logging.LogRecord
) -> None:
    try:
        handle(record)
    except BaseException as error:
        if passes(error):
            raise
        with suppress(Exception):
            _printer.handleError(record)
