"""How deliveries end: acks, failures, releases, and what happens at the end of a ``processing`` block."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from django_srq import operations
from django_srq.exceptions import Discard, Reject, RetryLater
from django_srq.operations import FAILED_ALIKE, Failed
from django_srq.queue import arguments, failure, instrumentation
from django_srq.queue.backoff import delay_after
from django_srq.queue.calls import batches, send
from django_srq.queue.instrumentation import Settled
from django_srq.queue.item import Item
from django_srq.runtime.completion import completed, wait_here
from django_srq.transport.sansio import Steps, run, warn_of_blocking

if TYPE_CHECKING:
    from django_srq.queue.safe_redis_queue import SafeRedisQueue


def ack(queue: SafeRedisQueue, item: Item | str) -> Steps[bool]:
    began = time.time_ns()
    flags = yield from send(queue, operations.ack(queue.keys, [arguments.ref_of(item, queue.alias)]))
    if instrumentation.installed:
        _tell(queue, [item], flags, "acked", began)
    return flags[0]


def ack_many(queue: SafeRedisQueue, items: Iterable[Item | str]) -> Steps[list[bool]]:
    listed = arguments.list_of(items, "items", queue.alias)
    refs = [arguments.ref_of(item, queue.alias) for item in listed]
    flags: list[bool] = []
    began = time.time_ns()
    for batch in batches(refs):
        flags += yield from send(queue, operations.ack(queue.keys, batch))
    if instrumentation.installed:
        _tell(queue, listed, flags, "acked", began)
    return flags


def fail(
    queue: SafeRedisQueue, item: Item | str, error: BaseException | str | None, delay: float | dt.timedelta
) -> Steps[str | None]:
    return (yield from fail_many(queue, [item], error, delay))[0]


def fail_many(
    queue: SafeRedisQueue, items: Iterable[Item | str], error: BaseException | str | None, delay: float | dt.timedelta
) -> Steps[list[str | None]]:
    seconds = arguments.seconds_of(delay, "delay", queue.alias)
    known = arguments.error_of(error, queue.alias)
    described = b"" if known is None else failure.describe(known)
    listed = arguments.list_of(items, "items", queue.alias)
    bury = failure.is_rejection(known)
    failed = [Failed(arguments.ref_of(item, queue.alias), described, seconds, bury) for item in listed]
    states: list[str | None] = []
    began = time.time_ns()
    for batch in batches(failed, FAILED_ALIKE):
        states += yield from send(queue, operations.fail_many(queue.keys, batch, max_deliveries=queue.max_deliveries))
    if instrumentation.installed:
        _tell(queue, listed, states, "failed", began, error)
    return states


def extend(queue: SafeRedisQueue, item: Item | str, seconds: float | None) -> Steps[bool]:
    lease = queue.lease if seconds is None else arguments.lease_of(seconds, queue.alias)
    recover = queue.autoclean_interval is not None
    ref = arguments.ref_of(item, queue.alias)
    return (yield from send(queue, operations.extend(queue.keys, [ref], lease=lease, recover=recover)))[0]


def release(queue: SafeRedisQueue, item: Item | str) -> Steps[bool]:
    began = time.time_ns()
    flags = yield from send(queue, operations.release(queue.keys, [arguments.ref_of(item, queue.alias)]))
    if instrumentation.installed:
        _tell(queue, [item], flags, "released", began)
    return flags[0]


def _tell(
    queue: SafeRedisQueue,
    items: Iterable[Item | str],
    results: Iterable[bool | str | None],
    outcome: str,
    began: int,
    error: BaseException | str | None = None,
) -> None:
    """Tell integrations how deliveries ended. results: for each whether the call settled it, or its new state."""
    raised = error if isinstance(error, BaseException) else None
    ended = []
    for item, result in zip(items, results, strict=True):
        state = result if isinstance(result, str) else None
        became = "dead" if state == "dead" else outcome if result else "lost"
        ended.append(Settled(item if isinstance(item, Item) else Item(item), became, state, raised))
    instrumentation.settled(queue.alias, ended, began)


def settle(queue: SafeRedisQueue, item: Item, error: BaseException | None = None) -> Steps[bool]:
    """Settle an item after its block, which raised ``error`` or nothing. Returns whether the error ends here."""
    if item and (error is None or isinstance(error, Discard)):
        yield from ack(queue, item)
    elif item:
        yield from fail(queue, item, error, delay_after(error, queue.backoff, item.deliveries))
    return isinstance(error, RetryLater | Discard | Reject)


class Processing(AbstractContextManager[Item]):
    """What ``processing`` returns: a context manager, or a decorator that runs each call of a function in one."""

    def __init__(self, queue: SafeRedisQueue, timeout: float) -> None:
        self._queue, self._timeout = queue, timeout

    def __enter__(self) -> Item:
        warn_of_blocking("processing", "aprocessing")
        self._block = self._processing()
        return self._block.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._block.__exit__(*error)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def in_a_block(*args: Any, **kwargs: Any) -> Any:
            with Processing(self._queue, self._timeout):
                return completed(function(*args, **kwargs), wait_here)

        return in_a_block

    @contextmanager
    def _processing(self) -> Iterator[Item]:
        item = self._queue.get(self._timeout)
        try:
            yield item
        except BaseException as error:
            if not run(settle(self._queue, item, error)):
                raise
        else:
            run(settle(self._queue, item))
