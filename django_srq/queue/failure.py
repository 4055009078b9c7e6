"""Describes an error for the server: enough to see what went wrong, and to group equal errors.

Describing an error may run code of the error's class, which can do anything, such as block or raise. So an error is
described before the server is told anything about the item. Parts that cannot be described are left out. The length of
a description, and the work for it, are bounded.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import json
import os
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, cast

import asgiref.sync

from django_srq.exceptions import Reject, RetryLater
from django_srq.runtime.interruption import is_interruption

MESSAGE_MOST = 1_000  # characters
TRACEBACK_MOST = 8_000  # characters; of a longer one the end is kept
NAME_MOST = 200  # characters of a class's or a function's name
ERRORS_MOST = 20  # causes of an error, and members of a group, that are described
FRAMES_MOST = 100  # of each
ENTRIES_MOST = 1_000  # entries; a larger container is shown in part
# Files that are not the project's: those of the standard library ("<…": its frozen modules have no files) and of
# installed packages. Not all of sys.base_prefix: that is /usr for a Python of the system, and a project may be in
# /usr/src.
_LIBRARY = (os.path.dirname(traceback.__file__) + os.sep, "<")
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
# Files of the code that calls the project's: a traceback begins with its frames. They say nothing about the error.
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_CALLERS = (
    _PACKAGE,
    *(os.path.dirname(str(module.__file__)) + os.sep for module in (asgiref.sync, asyncio, concurrent.futures)),
)
_NOT_DESCRIBED = b'{"type":"Failed","message":"<the error cannot be described>","fingerprint":"Failed"}'
# These getters read the real attributes: the class of an error may define attributes with the same names.
_CAUSE, _CONTEXT, _TRACEBACK = (
    BaseException.__dict__[name].__get__ for name in ("__cause__", "__context__", "__traceback__")
)
_SUPPRESSED = BaseException.__dict__["__suppress_context__"].__get__
_MODULE, _QUALNAME = (type.__dict__[name].__get__ for name in ("__module__", "__qualname__"))


def describe(error: BaseException | str, *, consumer: str = "", keep: int = 0) -> bytes:
    """The error as the JSON object that ``fail`` stores; the script adds time and delivery.

    keep: how many errors of earlier deliveries the script keeps beside this one; 0: as many as for any item.
    """
    described: bytes = _or_else(lambda: _described(error, consumer, keep), _NOT_DESCRIBED)
    return described


def _described(error: BaseException | str, consumer: str, keep: int) -> bytes:
    postponed = issubclass(type(error), RetryLater)
    if not issubclass(type(error), BaseException):  # of the type, as reading its __class__ may run code
        message = _exact(cast(str, error), MESSAGE_MOST)
        kept = {"type": "Failed", "message": message, "fingerprint": f"Failed: {message[:100]}"}
    elif is_rejection(error):
        kept = _rejected(cast(Reject, error))
    else:
        raised = cast(BaseException, error)
        name = name_of(raised)
        origin = _or_else(lambda: _origin(_TRACEBACK(raised)), "")
        kept = {
            "type": name,
            "message": text_of(raised),
            "traceback": _or_else(lambda: printed(raised), "<its traceback cannot be had>"),
            "fingerprint": f"{name} {origin}".strip(),
        }
    if consumer:
        kept["consumer"] = consumer
    encodable = {name: _encodable(text) for name, text in kept.items()}
    more = ({"postponed": True} if postponed else {}) | ({"keep": keep} if keep else {})
    return json.dumps(encodable | more, ensure_ascii=False).encode()


def is_rejection(error: BaseException | str | None) -> bool:
    """Whether the item is to be dead at once."""
    return issubclass(type(error), Reject)


def _rejected(error: Reject) -> dict[str, str]:
    """Without a traceback: the reason says why. The place that raised it, where there is one, tells groups apart."""
    message = text_of(error)
    origin = _or_else(lambda: _origin(_TRACEBACK(error)), "")
    return {"type": "Reject", "message": message, "fingerprint": f"Reject {origin or message[:100]}".strip()}


def name_of(error: BaseException) -> str:
    """The name of its class, with the module if it is not built in."""
    kind = type(error)
    module = _or_else(lambda: _MODULE(kind), "")
    name = _exact(_QUALNAME(kind), NAME_MOST)
    return f"{_exact(module, NAME_MOST)}.{name}".removeprefix("builtins.") if isinstance(module, str) else name


def text_of(error: BaseException) -> str:
    """The error's message, or its beginning. The ``str()`` of some exceptions raises."""
    try:
        return _exact(_large_text(error) or str(error), MESSAGE_MOST)
    except BaseException as failure:
        if is_interruption(failure):
            raise
        return f"<its text cannot be had: {_exact(_QUALNAME(type(failure)), NAME_MOST)}>"


def is_exhaustion(error: BaseException) -> bool:
    """Whether this process ran out of memory, files or threads, so that it would fail other items too."""
    return any(
        issubclass(type(cause), MemoryError)
        or _number_of(cause) in (errno.EMFILE, errno.ENOMEM)
        or (type(cause) is RuntimeError and cause.args == ("can't start new thread",))
        for cause in chain(error)
    )


def _number_of(error: BaseException) -> Any:
    return OSError.__dict__["errno"].__get__(error) if issubclass(type(error), OSError) else None


def _or_else(make: Callable[[], Any], less: str | bytes) -> Any:
    try:
        return make()
    except BaseException as failure:
        if is_interruption(failure):
            raise
        return less


def _exact(text: str, most: int) -> str:
    """The beginning of the text as a plain string: the methods of a subclass of str may do anything."""
    return str.__getitem__(text, slice(0, most))


def _large_text(error: BaseException) -> str:
    """A short text for an error whose message would show a large container whole; "" for any other error."""
    args: tuple[Any, ...] = BaseException.__dict__["args"].__get__(error)
    if type(error).__str__ is not BaseException.__str__ or len(args) != 1:
        return ""
    (given,) = args
    if type(given) not in (list, tuple, dict, set, frozenset, bytes, bytearray) or len(given) < ENTRIES_MOST:
        return ""
    start = bytes(given[:ENTRIES_MOST]) if isinstance(given, bytes | bytearray) else list(islice(given, 20))
    return f"{type(given).__name__} of {len(given)}: {start!r}"


def _encodable(text: str) -> str:
    """The text with each half of a surrogate pair spelled out: the server's JSON cannot hold one."""
    return text.encode(errors="backslashreplace").decode()


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(seen) < ERRORS_MOST:
        yield current
        seen.add(id(current))
        current = _CAUSE(current) or (None if _SUPPRESSED(current) else _CONTEXT(current))


def is_cause(cause: BaseException, *, of: BaseException) -> bool:
    """Whether an error was raised from that cause; else it was raised while the cause was handled."""
    return _CAUSE(of) is cause


def traceback_of(error: BaseException) -> TracebackType | None:
    """The error's traceback, from the first frame of the project on; if there is none, the whole traceback."""
    start: TracebackType | None = _TRACEBACK(error)
    step = start
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_CALLERS):
        step = step.tb_next
    return step or start


def without_texts(error: BaseException) -> Exception:
    """A stand-in with the error's name and frames, and without all texts, which may quote a payload.

    So it has no message, notes, members and causes. It is a RecursionError if the error is one.
    """
    kind = type(error)
    module, name = _or_else(lambda: _exact(_MODULE(kind), NAME_MOST), ""), _exact(_QUALNAME(kind), NAME_MOST)
    base = RecursionError if issubclass(kind, RecursionError) else Exception
    same = type(name.rpartition(".")[2], (base,), {"__module__": module, "__qualname__": name})
    stand_in: Exception = same()
    return stand_in.with_traceback(_TRACEBACK(error))


def is_ours(path: str | None) -> bool:
    """Whether a file belongs to this package."""
    return path is not None and path.startswith(_PACKAGE)


def printed(error: BaseException) -> str:
    """The traceback as Python prints it, with a bounded number of causes, frames and members of groups."""
    parts: list[str] = []
    causes = list(chain(error))
    for cause, caused in zip(reversed(causes), [*reversed(causes[:-1]), None], strict=True):
        parts += _told(cause)
        if caused is not None:
            by = "was the direct cause of" if is_cause(cause, of=caused) else "was handled during"
            parts.append(f"\nThe error above {by} the following one:\n\n")
    return "".join(parts)[-TRACEBACK_MOST:]


def _told(error: BaseException) -> list[str]:
    parts = []
    if start := traceback_of(error):
        frames = _or_else(lambda: traceback.format_tb(start, limit=-FRAMES_MOST), "  <its frames cannot be had>\n")
        parts = ["Traceback (most recent call last):\n", "".join(frames)[-TRACEBACK_MOST:]]
    parts.append(f"{_line(error)}\n")
    parts += [f"{note}\n" for note in _or_else(lambda: notes_of(error), "")]
    return parts + [f"  | {_line(member)}\n" for member in members(error)]


def _line(error: BaseException) -> str:
    text = text_of(error)
    return f"{name_of(error)}: {text}" if text else name_of(error)


def notes_of(error: BaseException) -> list[str]:
    """The notes that were added to the error: the first ERRORS_MOST."""
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, list | tuple):
        return []
    return [_exact(note, MESSAGE_MOST) for note in notes[:ERRORS_MOST] if isinstance(note, str)]


def members(error: BaseException) -> Iterator[BaseException]:
    """The members of a group, and of groups in it: the first ERRORS_MOST."""
    waiting, left = [error], ERRORS_MOST
    while waiting and left:
        group = waiting.pop()
        if issubclass(type(group), BaseExceptionGroup):
            some = BaseExceptionGroup.__dict__["exceptions"].__get__(group)[:left]
            yield from some
            left -= len(some)
            waiting += some


def _origin(start: TracebackType | None) -> str:
    """The last frame in the project's own code, else the last of all."""
    own = last = None
    for file, function in _frames(start):
        last = file, function
        if not file.startswith(_LIBRARY) and not any(folder in file for folder in _INSTALLED):
            own = last
    if last is None:
        return ""
    file, function = own or last
    return f"{file.rpartition('/')[2]}:{function}"[-NAME_MOST:]


def _frames(step: TracebackType | None) -> Iterator[tuple[str, str]]:
    while step is not None:
        code = step.tb_frame.f_code
        yield code.co_filename, code.co_qualname
        step = step.tb_next


def of_death(how: str, *, consumer: str, run_time: float, memory: int, keep: int = 0) -> bytes:
    """The evidence about a process that died while it handled an item, as the JSON object that ``crashed`` stores.

    how: such as "killed by SIGKILL"; run_time: seconds for which the item was handled; memory: the process's peak, in
    bytes. keep: how many errors before this one the item's record keeps; 0: as many as it kept.
    """
    kept: dict[str, Any] = {
        "type": "Crashed",
        "message": f"the process was {how} after {run_time:.1f} s of this item, at most {memory >> 20} MiB large",
        "fingerprint": f"Crashed: {how}",
        "consumer": consumer,
        "run_time": round(run_time, 3),
        "memory": memory,
    }
    return json.dumps(kept | ({"keep": keep} if keep else {})).encode()


def of_timeout(error: BaseException, *, consumer: str, run_time: float, keep: int) -> bytes:
    """The error of a task whose process was killed at the end of the task's time limit. keep: as in ``of_death``."""
    kept = {
        "type": type(error).__name__,
        "message": str(error),
        "fingerprint": type(error).__name__,
        "consumer": consumer,
        "run_time": round(run_time, 3),
        "keep": keep,
    }
    return json.dumps(kept).encode()
