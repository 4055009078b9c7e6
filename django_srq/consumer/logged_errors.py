"""Errors of handlers as the log gets them: type, message and frames, without the values of variables.

The collectors of logs read more of a record than its text: an exception in ``exc_info`` leads them to the variables of
its frames, and these hold payloads. So a record has a stand-in of the exception: an object of a class with the same
name, with a message in which secrets are masked, and with frames that have no variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any

from django_srq.queue import failure
from django_srq.queue.masking import Secrets
from django_srq.runtime.interruption import is_interruption

REASON_MOST = 200  # characters of a message in a line of the log
# As in failure.py, these getters read the real attributes.
_NAME, _QUALNAME = (type.__dict__[name].__get__ for name in ("__name__", "__qualname__"))
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


@dataclass(frozen=True)
class LoggedError:
    """What a record says about an error."""

    type: str  # the name of its class
    reason: str  # its message in one line; "" if it is not to be logged
    exc_info: ExcInfo  # the class itself, as filters ask for it; a stand-in of the error; its frames


@dataclass(frozen=True)
class ErrorView:
    """What the log may show of errors."""

    messages: bool = True  # False: only types and frames
    secrets: Secrets = field(default_factory=Secrets)

    def of(self, error: BaseException) -> LoggedError:
        """Runs code of the error's class, as ``failure.describe`` does: call it before the server is told anything."""
        try:
            stand_in, reason = self._stand_in(error), self.reason(failure.text_of(error))
        except BaseException as unshowable:
            if is_interruption(unshowable):
                raise
            stand_in, reason = _StandIn("<the error cannot be shown>"), ""
        return LoggedError(_NAME(type(error)), reason, (type(error), stand_in, stand_in.__traceback__))

    def reason(self, text: str) -> str:
        """A text that a handler gave, in one line and without control characters; "" if it is not to be logged."""
        return in_one_line(self.secrets.masked_text(text), REASON_MOST) if self.messages else ""

    def _stand_in(self, error: BaseException) -> BaseException:
        """A stand-in of the error, with stand-ins of its causes."""
        chain = list(failure.chain(error))
        made = [self._alone(each) for each in chain]
        for each, stand_in, cause, its_stand_in in zip(chain, made, chain[1:], made[1:], strict=False):
            if failure.is_cause(cause, of=each):
                stand_in.__cause__ = its_stand_in
            else:
                stand_in.__context__ = its_stand_in
        return made[0]

    def _alone(self, error: BaseException) -> BaseException:
        stand_in = _kind(failure.name_of(error), _QUALNAME(type(error)))(self._text(error))
        for note in failure.notes_of(error) if self.messages else ():
            stand_in.add_note(self.secrets.masked_text(note))
        for member in failure.members(error):
            stand_in.add_note(": ".join(filter(None, [f"  | {failure.name_of(member)}", self._text(member)])))
        return stand_in.with_traceback(_without_variables(failure.traceback_of(error)))

    def _text(self, error: BaseException) -> str:
        return self.secrets.masked_text(failure.text_of(error)) if self.messages else ""


def in_one_line(text: str, most: int) -> str:
    """The beginning of a text, in one line and without control characters: it must not control a terminal."""
    start = " ".join(text[: most + 1].split())
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in start)
    return line if len(line) <= most else f"{line[: most - 1]}…"


class _StandIn(Exception):
    def __str__(self) -> str:
        return str(self.args[0])


@lru_cache(500)
def _kind(full_name: str, name: str) -> type[Exception]:
    """A class that tracebacks print by its full name; name: without its module."""
    module = full_name.removesuffix(name).removesuffix(".") or "builtins"
    return type(name.rpartition(".")[2], (_StandIn,), {"__module__": module, "__qualname__": name})


# -- frames without variables


def _without_variables(start: TracebackType | None) -> TracebackType | None:
    """The last frames of a traceback, each with its file, function, module and line, and with nothing else."""
    steps = []
    while start is not None:
        steps.append(start)
        start = start.tb_next
    bare: TracebackType | None = None
    for step in reversed(steps[-failure.FRAMES_MOST :]):
        bare = TracebackType(bare, _frame_like(step.tb_frame), 0, step.tb_lineno or 1)
    return bare


def _frame_like(frame: FrameType) -> FrameType:
    module = {name: dict.get(frame.f_globals, name) for name in ("__name__", "__loader__")}  # as linecache needs them
    return _made(frame.f_code, *module.values())


def _yields() -> Iterator[None]:
    yield


def _nowhere(code: CodeType) -> bytes:
    """A table of locations that has none for any instruction, so that the line of the traceback counts.

    An entry is a byte: 0xF8, and how many further units of two bytes it is for, up to 7. An instruction of -1 would say
    the same, but the reports of Django's AdminEmailHandler do not take it.
    """
    units = len(code.co_code) // 2
    return bytes(0xF8 | min(7, units - start - 1) for start in range(0, units, 8))


@lru_cache(500)
def _made(code: CodeType, name: Any, loader: Any) -> FrameType:
    like = _yields.__code__.replace(
        co_filename=code.co_filename,
        co_name=code.co_name,
        co_qualname=code.co_qualname,
        co_firstlineno=code.co_firstlineno,
        co_linetable=_nowhere(_yields.__code__),
    )
    # Of a generator: a frame that ran would lead to the frames that called it, and so to their variables.
    frame: FrameType = FunctionType(like, {"__name__": name, "__loader__": loader})().gi_frame
    return frame
