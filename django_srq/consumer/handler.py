"""The call of a handler, sync or async, and the care for its database connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, iscoroutinefunction, sync_to_async
from django.db import connections
from django.db.backends.signals import connection_created

from django_srq.consumer.databases import handler_connections
from django_srq.queue.item import Item
from django_srq.runtime.completion import caught, completed, result_of, wait_here
from django_srq.runtime.process import PerProcess
from django_srq.runtime.signatures import names_parameter

T = TypeVar("T")


def is_asynchronous(handler: Callable[..., Any]) -> bool:
    """Whether a handler visibly needs an event loop: an ``async def``, or an object whose ``__call__`` is one.

    A decorator may hide that. Then it shows only when the handler is called; ``adapt`` awaits its result too.
    """
    while isinstance(handler, partial):
        handler = handler.func
    return iscoroutinefunction(handler) or iscoroutinefunction(getattr(type(handler), "__call__", None))  # noqa: B004


def adapt(handler: Callable[..., Any], *, on_loop: bool = False, batch: bool = False) -> Callable[[Any], Any]:
    """A user's handler, as a function of the item.

    The handler gets the payload, and ``item`` if its signature has such a parameter. The function returns once the
    handler is done, also when the handler returns an awaitable. on_loop: awaitables run on the one event loop of the
    process, concurrently. Else each runs on a loop of its own, and its sync parts run in the caller's thread, so within
    the caller's database transaction. batch: a function of a list of items, which returns the errors of items that
    failed, by their index; the handler gets the list of payloads, and ``items`` if its signature has such a parameter.
    """
    call = _with_payloads(handler) if batch else _with_payload(handler)
    wait = _wait_on_loop if on_loop else wait_here

    def handle(item: Any) -> None:
        outcome = call(item)
        if outcome is not None:
            completed(outcome, wait)

    def handle_all(items: Any) -> Mapping[int, Exception]:
        return errors_of(completed(call(items), wait), len(items))

    return handle_all if batch else handle


def carry_out(handle: Callable[[Any], Any], argument: Any) -> Any:
    """Call the ``handle`` of a subscription. Returns its result, once that is there; awaits it if needed. Blocks."""
    outcome = handle(argument)
    return None if outcome is None else completed(outcome, _wait_on_loop)


def _with_payload(handler: Callable[..., Any]) -> Callable[[Item], Any]:
    if names_parameter(handler, "item"):
        return lambda item: handler(item.payload, item=item)
    return lambda item: handler(item.payload)


def _with_payloads(handler: Callable[..., Any]) -> Callable[[list[Item]], Any]:
    if names_parameter(handler, "items"):
        return lambda items: handler([item.payload for item in items], items=items)
    return lambda items: handler([item.payload for item in items])


def errors_of(outcome: Any, n: int) -> Mapping[int, Exception]:
    """The errors that a handler of batches returned, by the index of the item. TypeError: it returned anything else."""
    if outcome is None:
        return {}
    errors = dict(outcome) if isinstance(outcome, Mapping) else None
    if errors is not None and all(
        isinstance(index, int) and 0 <= index < n and isinstance(error, Exception) for index, error in errors.items()
    ):
        return errors
    raise TypeError(
        "a handler of batches returns None, or a dict with an exception for each item that failed, by its place in the "
        f"list (0 to {n - 1} here), not this {type(outcome).__name__}"
    )


def with_fresh_connections(handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Close database connections that are broken or too old before each item, in the thread that runs the handler.

    Django does so before and after a request. Before each item is enough here: the next item follows at once, or all
    connections are closed (``close_connections``).
    """

    # A connection object that was never opened needs nothing; loading the models makes one for the default database.
    if any(connection.connection is not None for connection in connections.all(initialized_only=True)):
        _note_connection()

    def handle_with(argument: Any) -> Any:
        if _opened:
            # As Django's close_old_connections and reset_queries, but in one loop: finding the connections costs most.
            for connection in handler_connections():
                connection.queries_log.clear()
                connection.close_if_unusable_or_obsolete()
        return handle(argument)

    return handle_with


_opened = False  # whether this process has ever opened a database connection: until then there is none to look for


# Not an Event, which has a lock: a lock that is held during a fork stays locked in the child for ever.
def _note_connection(**kwargs: object) -> None:
    global _opened
    _opened = True


connection_created.connect(_note_connection, dispatch_uid="django_srq.consumer.handler")


async def _with_own_thread(handling: Awaitable[T]) -> T:
    # The handler's calls through sync_to_async, such as those of the ORM, run in one thread for each item, as Django
    # has one for each request. So no item closes the connection of another one.
    async with ThreadSensitiveContext() as context:
        try:
            return await handling
        finally:
            if context in SyncToAsync.context_to_thread_executor:
                await sync_to_async(connections.close_all)()


class _Loop:
    """The event loop of this process, in a thread of its own, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        """Run a coroutine on the loop, and wait for its end. Returns what it returns, raises what it raises."""
        return result_of(self._result(caught(_with_own_thread(coroutine))))

    def _result(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run_for_good, args=[self._loop], name="srq-loop", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _run_for_good(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop, and run it again when an error ends it.

    A SystemExit in a task that a handler started ends ``run_forever``, and threads that wait for other tasks would wait
    for ever. That task still ends with the SystemExit as its result.
    """
    while not loop.is_closed():
        with suppress(BaseException):
            loop.run_forever()


_loop = PerProcess(lambda inherited: _Loop())  # a forked process needs a new one: the loop's thread is missing there


def _wait_on_loop(coroutine: Coroutine[Any, Any, T]) -> T | None:
    return _loop.get().wait(coroutine)
