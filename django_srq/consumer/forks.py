"""Processes that a handler forks: they belong to the handler, and take no part in the consumer's work.

Such a process closes the consumer's pipes. When the handler returns in it, the process ends: else it would go on with
the items of the process that it was forked from.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, Protocol


class Private(Protocol):
    """A resource of this process, such as a pipe, that a fork of it must close."""

    def close_in_fork(self) -> None: ...


_private: weakref.WeakSet[Private] = weakref.WeakSet()


def keep_private(resource: Private) -> None:
    """Have ``close_in_fork`` called in a fork of this process. This has only a weak reference to the resource."""
    _private.add(resource)


def _close_all() -> None:
    for resource in list(_private):
        resource.close_in_fork()
    _private.clear()


os.register_at_fork(after_in_child=_close_all)


def end_in_forks(handler: Callable[..., Any], *, asynchronous: bool) -> Callable[..., Any]:
    """The handler, as a function that returns in this process only. In a fork that it made, it ends the process."""

    @functools.wraps(handler, updated=())
    def handle(*args: Any, **kwargs: Any) -> Any:
        process = os.getpid()
        try:
            return handler(*args, **kwargs)
        finally:
            if os.getpid() != process:
                _end()

    @functools.wraps(handler, updated=())
    async def ahandle(*args: Any, **kwargs: Any) -> Any:
        process = os.getpid()
        try:
            return await handler(*args, **kwargs)
        finally:
            if os.getpid() != process:
                _end()

    return ahandle if asynchronous else handle


def _end() -> NoReturn:
    """End this process as Python would: with the error that is being raised, if there is one."""
    code = 1
    try:
        code = _exit_code(sys.exc_info()[1])
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    finally:
        os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return (error.code or 0) & 0xFF
    with suppress(Exception):  # to describe an error may raise another one
        if isinstance(error, SystemExit):
            sys.stderr.write(f"{error.code}\n")
        else:
            traceback.print_exception(error)
    return 1
