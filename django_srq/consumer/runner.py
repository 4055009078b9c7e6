"""The protocol between the consumer and what runs the tasks of a queue. A queue has a runner, or a handler."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from django_srq.exceptions import Reject
from django_srq.queue.item import Item

# How many errors of earlier attempts the record of a task's item keeps, beside the last one.
EARLIER_ERRORS = 9


class Unrunnable(Reject):
    """Raised by ``Runner.begin``: the task cannot be run here. Its item is dead at once."""


class Exhausted(Exception):
    """The attempts are used up: the last one was cut short, as its process died or was stopped. It is not run again.

    Raised by ``Runner.begin``.
    """


class TaskTimeout(Exception):
    """An attempt took longer than the task's own time limit, so its process was killed."""

    def __init__(self, limit: float) -> None:
        super().__init__(f"the task took longer than its timeout of {limit:g} s")


class Outcome(NamedTuple):
    """What the server is to keep of a task that has ended."""

    kept: bytes = b""  # an argument of ack, made by operations.kept; b"": nothing is kept
    valued: bool = False  # it says more than that the task succeeded and returned None


class Verdict(NamedTuple):
    """What becomes of an item after a failed attempt."""

    delay: float = 0.0  # seconds until the next attempt
    max_deliveries: int | None = None  # None: as many as the queue allows
    bury: bool = False  # there is no next attempt
    error: bytes | None = None  # the record of the error (JSON); None: as that of a handler's error


class Runner(Protocol):
    """Runs tasks. ``begin``, ``run`` and the methods between and after them are called in one context.

    They run in the thread that has the item, in this order, while its time limit runs.
    """

    def begin(self, item: Item) -> None:
        """Called when the payload is read. If it raises, ``run`` is not called, and the attempt has failed.

        Exhausted, Unrunnable: the item is dead at once.
        """

    def max_attempts(self, item: Item) -> int | None:
        """After how many deliveries the item is dead; None: as many as the queue allows. Also if its process dies."""

    def time_limit(self, item: Item) -> float | None:
        """The seconds that this attempt may take; None: as long as the queue allows.

        If there are such, ``verdict`` is asked for a ``TaskTimeout`` before the run: later the process is dead.
        """

    def is_asynchronous(self, item: Item) -> bool:
        """Whether ``run`` returns an awaitable without doing any of the task's work."""

    def run(self, item: Item) -> Any:
        """The return value of the task, or an awaitable that has it."""

    def outcome(self, item: Item, value: Any, seconds: float) -> Outcome:
        """What the server is to keep of a task that returned this value. If it raises, the attempt has failed."""

    def discarded(self, item: Item, error: BaseException) -> Outcome:
        """The same for a task that raised ``Discard``."""

    def verdict(self, item: Item, error: BaseException) -> Verdict:
        """What becomes of the item after this error. Runs code of the project."""

    def acked(self, item: Item, outcome: Outcome, removed: bool) -> None:
        """The server has been told. removed: this ack has removed the item, and stored what is to be kept.

        As ``failed``, it may be called in another thread than that of the task.
        """

    def failed(self, item: Item, error: BaseException, state: str | None) -> None:
        """The server has been told of the error. state: of the item now; None: another consumer has it."""

    def stub(self) -> bytes:
        """``Outcome.kept`` of a task that returned None, made without the item: its process is dead."""
