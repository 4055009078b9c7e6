"""The call of a handler: sync or async, with a clean thread around each item."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import connections
from django.db.backends.signals import connection_created

from django_srq.item import Item

T = TypeVar("T")


def is_asynchronous(handler: Callable[..., Any]) -> bool:
    """Whether it has to be awaited: an ``async def``, or an object whose ``__call__`` is one."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def adapted(handler: Callable[..., Any], *, on_loop: bool = False) -> Callable[[Item], Any]:
    """A user's handler as a function of the item: it gets the payload, and the item if its signature names that.

    Returns once the handler is done, also when that is async. on_loop: those run on one event loop of the process, side
    by side; else on one of their own, with the caller's thread for what is sync in them (its database transaction).
    """
    wants_item = _names_item(handler)

    def call(item: Item) -> Any:
        return handler(item.payload, item=item) if wants_item else handler(item.payload)

    async def wait_for(item: Item) -> None:
        await call(item)

    if not is_asynchronous(handler):
        return call
    if on_loop:
        return lambda item: loop.run(_with_own_thread(wait_for(item)))
    return async_to_sync(wait_for)


def with_fresh_connections(handle: Callable[[Item], object]) -> Callable[[Item], None]:
    """Close database connections that are broken or too old before each item, in the thread that runs the handler.

    Django does so around a request. What comes after one item comes before the next; and where none follows at once,
    all are closed (``close_connections``).
    """

    if connections.all(initialized_only=True):
        _opened.set()

    def handle_with(item: Item) -> None:
        if _opened.is_set():
            # What Django's close_old_connections and reset_queries do, but in one go: to look for them costs the most.
            for connection in connections.all(initialized_only=True):
                connection.queries_log.clear()
                connection.close_if_unusable_or_obsolete()
        handle(item)

    return handle_with


_opened = threading.Event()  # this process has had a connection to a database: until then there is none to look for
connection_created.connect(lambda **about: _opened.set(), weak=False, dispatch_uid="django_srq.consumer.handler")


def close_connections() -> None:
    """Close this thread's database connections, for the time in which it has nothing to do."""
    connections.close_all()


async def _with_own_thread(handling: Awaitable[object]) -> None:
    # What the handler does in sync_to_async, such as the ORM, runs in one thread for each item, as Django does it for
    # each request: so no item closes another's connection.
    async with ThreadSensitiveContext() as context:
        try:
            await handling
        finally:
            if context in SyncToAsync.context_to_thread_executor:
                await sync_to_async(connections.close_all)()


async def _caught(coroutine: Coroutine[Any, Any, object]) -> BaseException | None:
    """What it raises, as a result: as an exception, SystemExit would end the loop, with all that others run there."""
    try:
        await coroutine
    except BaseException as error:
        return error
    return None


class _Loop:
    """The event loop of this process, in a thread of its own, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run it there, and wait for its end; what it raises comes out here."""
        if error := self._result(_caught(coroutine)):
            raise error

    def _result(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="srq-loop", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


loop = _Loop()


def _names_item(handler: Callable[..., Any]) -> bool:
    try:
        named = inspect.signature(handler).parameters.get("item")
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    # As the only parameter it is the payload's name.
    return named is not None and next(iter(inspect.signature(handler).parameters)) != "item"
