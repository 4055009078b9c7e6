"""What integrations, such as error reporters and tracers, learn of puts, of gets, and of the calls of handlers.

While none is installed, a put or an item costs one look at ``installed``. An error of an integration is logged once,
and changes nothing for the item.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from traceback import format_tb
from typing import Any, Literal, NamedTuple, TypeVar

from django_srq import exceptions
from django_srq.exceptions import Discard, RetryLater
from django_srq.operations import Call, PutReply
from django_srq.operations.puts import payload_size
from django_srq.queue import arguments, failure
from django_srq.queue.item import Item
from django_srq.runtime.guarded_log import guarded
from django_srq.runtime.interruption import is_interruption, may_be_interruption
from django_srq.transport.sansio import Steps

logger = guarded("django_srq.instrumentation", may_be_interruption)
FRAMES_LOGGED = 10  # of an integration's error
T = TypeVar("T")

PutEnd = Callable[[BaseException | None], object]


class Puts:
    """One call that puts items. An integration may add to ``headers``, which all items get, the caller's among them."""

    def __init__(self, queue: str, step: Literal["put", "prepare", "send"], headers: Mapping[str, str] | None) -> None:
        """queue: its alias. step: "put" prepares items and sends them; for a put on commit, "prepare" and "send" are
        two calls, and only the headers of "prepare" count."""
        self.queue, self.step = queue, step
        self.headers = dict(arguments.headers_of(headers, queue) or {})
        self.uids: Sequence[str] = ()  # known at the end
        self.size: int | None = None  # bytes of the payload, known at the end; None for a batch
        self.batch = False
        self._ends: list[tuple[Integration, PutEnd]] = []

    def begin(self) -> Puts:
        for integration in installed:
            headers = dict(self.headers)
            with _guard(integration, "put"):
                if end := integration.put(self):
                    self._ends.append((integration, end))
                headers = dict(arguments.headers_of(self.headers, self.queue) or {})
            self.headers = headers
        return self

    def end(self, calls: Iterable[Call[PutReply]], uids: Sequence[str], error: BaseException | None = None) -> None:
        """calls: of a single item; empty for a batch."""
        self.uids = uids
        for call in calls:
            self.size = payload_size(call)
        for integration, end in reversed(self._ends):
            with _guard(integration, "put"):
                end(error)

    def over(self, steps: Steps[T], calls: Sequence[Call[PutReply]] = (), uids: Sequence[str] = ()) -> Steps[T]:
        """The steps of the call, and then ``end``. uids: if the result of the steps does not have them."""
        self.batch = not calls
        try:
            result = yield from steps
        except BaseException as error:
            self.end(calls, uids, error)
            raise
        self.end(calls, uids or ([result] if isinstance(result, str) else result))  # type: ignore[arg-type]
        return result


class Handling:
    """One call of a handler, with one item or a batch. It is a context manager around that call.

    ``notes`` has what an integration keeps until the items are settled.
    """

    def __init__(self, queue: str, items: Sequence[Item], sizes: Sequence[int], *, batch: bool) -> None:
        """queue: its alias. sizes: bytes of the payloads. batch: the handler takes lists."""
        self.queue, self.items, self.sizes, self.batch = queue, items, sizes, batch
        self.notes: dict[Integration, Any] = {}
        self.ended = 0  # nanoseconds, by time.time_ns()
        self._entered: list[tuple[Integration, AbstractContextManager[object]]] = []

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        with self:
            return function(*arguments)

    def __enter__(self) -> None:
        for integration in installed:
            with _guard(integration, "handle"):
                manager = integration.handle(self)
                manager.__enter__()
                self._entered.append((integration, manager))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        self.ended = time.time_ns()
        for integration, manager in reversed(self._entered):
            with _guard(integration, "handle", but=error):
                manager.__exit__(kind, error, traceback)

    def settled(self, item: Item, state: str | None, error: BaseException | None = None, *, removed: bool) -> None:
        """Tell the integrations what became of an item. state: where it is now. removed: this call acked it."""
        ended = Settled(item, _outcome(state, error, removed), state, error)
        for integration in installed:
            with _guard(integration, "settled"):
                integration.settled(self.queue, [ended], self.ended, self)


class Settled(NamedTuple):
    """An item whose delivery has ended."""

    item: Item
    outcome: str  # acked, discarded, failed, postponed, rejected, dead, released; lost: another consumer may have it
    state: str | None = None  # of the item now; None: it is gone, or not known
    error: BaseException | None = None


class Integration:
    """Learns of puts, gets and handlers. Each method does nothing here, and may be overridden."""

    def put(self, puts: Puts) -> PutEnd | None:
        """Items are about to be put; the context is that of the caller.

        The function that it returns is called with the error of the put, or None, in that context or another one. It is
        not called if a payload or an argument turns out to be wrong: nothing is sent then.
        """

    def handle(self, handling: Handling) -> AbstractContextManager[object]:
        """A context manager around the call of a handler, in its thread and context; an async handler inherits both."""
        return nullcontext()

    def received(self, queue: str, items: Sequence[Item], began: int) -> None:
        """A call of get has taken items. began: when it began, in nanoseconds."""

    def settled(self, queue: str, ended: Sequence[Settled], began: int, handling: Handling | None) -> None:
        """The server has been told what became of items, since ``began``. handling: None for a method of the queue.

        This may be in another thread than that of the handler.
        """

    def flush(self) -> None:
        """The process that writes the log of a consumer's supervisor, and calls no handler, is about to end."""


installed: tuple[Integration, ...] = ()


def install(integration: Integration) -> None:
    global installed
    if integration not in installed:
        installed = (*installed, integration)


def uninstall(integration: Integration) -> None:
    global installed
    installed = tuple(each for each in installed if each is not integration)


def received(queue: str, items: Sequence[Item], began: int) -> None:
    for integration in installed:
        with _guard(integration, "received"):
            integration.received(queue, items, began)


def settled(queue: str, ended: Sequence[Settled], began: int) -> None:
    for integration in installed:
        with _guard(integration, "settled"):
            integration.settled(queue, ended, began, None)


def flush() -> None:
    for integration in installed:
        with _guard(integration, "flush"):
            integration.flush()


def unreadable(queue: str, item: Item, size: int, error: BaseException) -> None:
    """Tell the integrations of an item that is dead as its payload cannot be decoded: as if a handler had raised."""
    handling = Handling(queue, [item], [size], batch=False)
    handling.__enter__()
    handling.__exit__(type(error), error, error.__traceback__)
    handling.settled(item, "dead", error, removed=False)


def _outcome(state: str | None, error: BaseException | None, removed: bool) -> str:
    kind = type(error)  # reading the __class__ of an error may run code
    if error is None or issubclass(kind, Discard):
        return ("acked" if error is None else "discarded") if removed else "lost"
    if state is None:
        return "lost"
    if state == "dead":
        return "rejected" if issubclass(kind, exceptions.Reject) else "dead"
    return "postponed" if issubclass(kind, RetryLater) else "failed"


_logged: set[tuple[str, str]] = set()


@contextmanager
def _guard(integration: Integration, hook: str, but: BaseException | None = None) -> Iterator[None]:
    """Log an error of an integration, the first of each hook. but: the error of the handler, which goes its own way."""
    try:
        yield
    except BaseException as error:
        if is_interruption(error) and error is not but:
            raise
        name = type(integration).__qualname__
        if error is not but and (name, hook) not in _logged:
            _logged.add((name, hook))
            # Without its message, its variables and its context: these may be those of the handler's error.
            frames = "".join(format_tb(error.__traceback__, limit=-FRAMES_LOGGED))
            kind = failure.name_of(error)
            logger.error("an integration failed integration=%s hook=%s error=%s\n%s", name, hook, kind, frames)
