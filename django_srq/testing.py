"""For the tests of projects: each test gets queues of its own, checks puts, and handles ready items in its own process.

unittest: ``class OrderTests(QueueTestMixin, TestCase)``. pytest: ``pytest_plugins = ["django_srq.testing"]`` in the
root ``conftest.py``, and the fixture ``srq_queues``. Both need a server: the one that the settings name.

The guard forbids puts to queues that no test isolates: with that plugin, or with ``SRQ_TEST_GUARD = True`` in the
settings of the test run.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test.utils import override_settings

from django_srq import conf, operations, queues
from django_srq.consumer import adapt
from django_srq.exceptions import ConfigurationError, Discard, InvalidArgument, PayloadError, Reject, RetryLater, shown
from django_srq.operations import STATES, Command, Keys, key_types
from django_srq.queue import arguments, puts
from django_srq.queue.item import Item
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.queue.serializers import dump, load
from django_srq.registry import Queue, QueueHandler
from django_srq.runtime.completion import completed, wait_here
from django_srq.transport.sansio import run
from django_srq.values import COUNTS_FROM_0

if TYPE_CHECKING:
    from unittest import TestCase as _Case

    from django.tasks import Task, TaskResult

    from django_srq.tasks.runner import TaskRunner
else:
    _Case = object

WAITING = ("ready", "delayed")  # the states of items that were put and are not begun
LISTED = 20  # items in the text of a failure, at most
WIDTH = 200  # characters of a payload there, at most

_isolated: set[str] = set()  # the keys that belong to a test; all threads of a process share them


class PutForbidden(AssertionError):
    """A test run put an item into a queue that no test isolates. No SRQError: code under test must not catch it."""


@contextmanager
def isolated_queues() -> Iterator[QueueHandler]:
    """Give every queue of the settings a throw-away prefix on the same server; its keys are deleted at the end."""
    written: Mapping[str, Mapping[str, Any]] = getattr(settings, "SRQ_QUEUES", {})
    isolated = {
        alias: {**written.get(alias, {}), "PREFIX": f"test-{uuid.uuid4().hex[:12]}"} for alias in conf.aliases()
    }
    with override_settings(SRQ_QUEUES=isolated):
        used = {alias: queues[alias] for alias in conf.load().queues}
        names = {str(queue.keys) for queue in used.values()}
        _isolated.update(names)
        try:
            yield queues
        finally:
            _isolated.difference_update(names)
            for queue in used.values():
                queue.link.call(_delete(queue.keys), queue=queue.alias)


def _delete(keys: Keys) -> Command[Any]:
    return Command((b"DEL", *(keys[key].encode() for key in key_types())), lambda reply: reply)


def guard() -> None:
    """Have each put of this process checked: while SRQ_TEST_GUARD is True, it may go to isolated queues only."""
    puts.guard = _check


def _check(queue: SafeRedisQueue) -> None:
    __tracebackhide__ = True  # pytest shows the line of the test
    if str(queue.keys) in _isolated or not _is_on():
        return
    advice = (
        "add QueueTestMixin to the TestCase or the fixture srq_queues to the test, and put in setUp or later"
        if hasattr(queue, "config")
        else "it was not made by the settings: get it from django_srq.queues, which can be isolated"
    )
    raise PutForbidden(
        f"queue {queue.alias!r}: nothing was put, because no test isolates this queue now, and the item would stay in "
        f"{queue.keys} at {queue.link.address}. To mend this, {advice}. "
        "If a test needs this put, set SRQ_TEST_GUARD to False for it."
    )


def _is_on() -> bool:
    try:
        wanted = getattr(settings, "SRQ_TEST_GUARD", False)
    except ImproperlyConfigured:  # the fixture srq_guard, in a project without Django's settings
        return True
    if not isinstance(wanted, bool):
        raise ConfigurationError(f"SRQ_TEST_GUARD is True or False, not {shown(wanted)}.")
    return wanted


def assert_put(
    queue: str | SafeRedisQueue,
    payload: Any = ANY,
    *,
    count: int | None = None,
    uid: str | None = None,
    headers: Mapping[str, str] | None = None,
    delayed: bool | None = None,
) -> list[Item]:
    """Check that items wait in a queue, ready or delayed; return them, ready ones first, without taking them.

    When the check fails, the error lists what is in the queue.

    :param queue: an alias, or the queue.
    :param payload: as the handler would get it, such as a list where a tuple was put; ``unittest.mock.ANY`` stands for
        any part of it.
    :param count: exactly so many items, 0 for none; None: at least one.
    :param uid: only an item with this uid counts.
    :param headers: only items with exactly these headers count.
    :param delayed: False: only ready items count; True: only delayed ones.
    :raises AssertionError: there are not so many.
    """
    __tracebackhide__ = True
    if count is not None and count not in COUNTS_FROM_0:
        raise InvalidArgument(f"assert_put: count is {COUNTS_FROM_0.name}, or None; not {shown(count)}")
    target = queues[queue] if isinstance(queue, str) else queue
    if not hasattr(target, "page"):  # no isinstance: default_queue is a proxy
        raise InvalidArgument(f"assert_put takes an alias or a queue, not {shown(queue)}")
    there = {state: list(target.items(state)) for state in STATES}
    found = [
        item
        for state in WAITING
        if delayed in (None, state == "delayed")
        for item in there[state]
        if payload == item.payload and uid in (None, item.uid) and headers in (None, dict(item.headers))
    ]
    if len(found) == count or (count is None and found):
        return found
    chosen = {"uid": uid, "headers": headers, "delayed": delayed}
    named = ({} if payload is ANY else {"payload": payload}) | {k: v for k, v in chosen.items() if v is not None}
    asked = f" with {', '.join(f'{name}={value!r}' for name, value in named.items())}" if named else ""
    noun, wanted = "item" if len(found) == 1 else "items", "at least 1" if count is None else f"{count:,}"
    raise AssertionError(
        f"queue {target.alias!r}: {len(found):,} waiting {noun}{asked}, not {wanted}. "
        f"{_hint_of_payload(target, payload)}{_hint_of_commit()}{_listing(there)}"
    )


def _hint_of_payload(queue: SafeRedisQueue, payload: Any) -> str:
    try:
        data = dump(queue.serializer, payload, queue=queue.alias, limit=None)
        handled = load(queue.serializer, data, queue=queue.alias, uid="")
    except PayloadError:  # such as of ANY
        return ""
    return "" if handled == payload else f"When {payload!r} is put, the handler gets {handled!r}. "


def _hooks() -> list[Any]:
    return [hook[1] for connection in connections.all(initialized_only=True) for hook in connection.run_on_commit]


def _hint_of_commit() -> str:
    if not any(getattr(hook, "__qualname__", "").startswith(Queue.put_on_commit.__qualname__) for hook in _hooks()):
        return ""
    return (
        "put_on_commit puts when the transaction commits, which it never does in a TestCase: "
        "call it within captureOnCommitCallbacks(execute=True), and check after that block. "
    )


def _listing(there: Mapping[str, list[Item]]) -> str:
    lines = [f"  {state} {item.uid} {_described(item)}" for state in STATES for item in there[state]]
    more = [f"  and {len(lines) - LISTED:,} more"] if len(lines) > LISTED else []
    return "\n".join(["In the queue:", *lines[:LISTED], *more]) if lines else "The queue is empty."


def _described(item: Item) -> str:
    text = repr(item.payload)
    shortened = text if len(text) <= WIDTH else f"{text[:WIDTH]}… ({len(text):,} characters)"
    return f"{shortened} headers={dict(item.headers)}" if item.headers else shortened


def assert_enqueued(
    task: Task[..., Any],
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    count: int | None = None,
) -> list[TaskResult[..., Any]]:
    """Check that a task waits, ready or delayed, in any queue of its backend; return the results, without taking them.

    A result has the id, ``args``, ``kwargs``, ``enqueued_at`` and ``task``, with its ``priority`` and ``run_after``.
    When the check fails, the error lists the tasks that wait.

    :param task: the task, also as ``using`` changes it.
    :param args: the positional arguments, as the task would get them; ``unittest.mock.ANY`` stands for any part of
        them; None: any.
    :param kwargs: the arguments by name; None: any.
    :param count: exactly so many, 0 for none; None: at least one.
    :raises AssertionError: there are not so many.
    """
    __tracebackhide__ = True
    if count is not None and count not in COUNTS_FROM_0:
        raise InvalidArgument(f"assert_enqueued: count is {COUNTS_FROM_0.name}, or None; not {shown(count)}")
    if not hasattr(task, "module_path"):
        raise InvalidArgument(f"assert_enqueued takes a task, not {shown(task)}")
    there = _waiting_tasks(task.backend)
    found = [
        result
        for result in there
        if result.task.module_path == task.module_path
        and (args is None or _as_sent(list(args)) == result.args)
        and (kwargs is None or _as_sent(dict(kwargs)) == result.kwargs)
    ]
    if len(found) == count or (count is None and found):
        return found
    asked = "".join(f" {name}={given!r}" for name, given in (("args", args), ("kwargs", kwargs)) if given is not None)
    wanted = "at least once" if count is None else f"{count:,} times"
    raise AssertionError(
        f"{task.module_path}{asked} waits {len(found):,} times, not {wanted}. {_hint_of_tasks()}{_tasks_listing(there)}"
    )


def _hint_of_tasks() -> str:
    if not any(getattr(hook, "__module__", "") == "django_srq.tasks.commits" for hook in _hooks()):
        return ""
    return "Some tasks wait for a commit, which never comes in a TestCase: call commit() before. "


def _waiting_tasks(backend: str) -> list[TaskResult[..., Any]]:
    from django.tasks import TaskResultStatus, task_backends

    from django_srq.tasks import SRQBackend

    used: Any = task_backends[backend]
    if isinstance(getattr(used, "results", None), list):  # DummyBackend
        return [result for result in used.results if result.status == TaskResultStatus.READY]
    if not isinstance(used, SRQBackend):
        raise ConfigurationError(
            f"assert_enqueued: {type(used).__name__} keeps no tasks; "
            f"use SRQBackend or DummyBackend in TASKS[{backend!r}]"
        )
    there = [result for alias in used.queue_aliases() for result in _waiting_in(queues[alias])]
    return [result for result in there if result.backend == backend]


def _waiting_in(queue: Queue) -> Iterator[TaskResult[..., Any]]:
    """The results of the tasks that wait in a queue; without items that are no tasks, or cannot be imported here."""
    from django.tasks.exceptions import TaskResultMismatch

    from django_srq.tasks.backend import views_of
    from django_srq.tasks.results import result_of

    uids = [str(item.uid) for state in WAITING for item in queue.items(state)]
    for view in run(views_of(queue, uids)):
        with suppress(TaskResultMismatch):
            if view is not None:
                yield result_of(view)


def _as_sent(arguments: Any) -> Any:
    """Arguments as JSON leaves them; as they are if it cannot hold them, such as ``unittest.mock.ANY``."""
    from django.utils.json import normalize_json  # new in Django 6.0

    try:
        return normalize_json(arguments)
    except (TypeError, ValueError):
        return arguments


def _tasks_listing(there: Sequence[TaskResult[..., Any]]) -> str:
    lines = [f"  {result.id} {_described_task(result)}" for result in there]
    more = [f"  and {len(lines) - LISTED:,} more"] if len(lines) > LISTED else []
    return "\n".join(["These tasks wait:", *lines[:LISTED], *more]) if lines else "No task waits."


def _described_task(result: TaskResult[..., Any]) -> str:
    text = ", ".join([*map(repr, result.args), *(f"{name}={value!r}" for name, value in result.kwargs.items())])
    shortened = text if len(text) <= WIDTH else f"{text[:WIDTH]}… ({len(text):,} characters)"
    return f"{result.task.module_path}({shortened})"


def commit() -> None:
    """Run all hooks that wait for the commit of the test's transaction, as a commit would: tasks are enqueued then.

    For a ``TestCase``, and for the fixture ``db`` of pytest-django, whose transactions never commit. The hooks of each
    database run in their order, also those that hooks register.

    :raises InvalidArgument: a transaction within that of the test is open.
    """
    opened = connections.all(initialized_only=True)
    for connection in opened:
        if any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
            raise InvalidArgument(
                f"commit: a transaction of the code under test is open on the database {connection.alias!r}; "
                "call commit() after its block"
            )
    while waiting := [connection for connection in opened if connection.run_on_commit]:
        for connection in waiting:
            waiting_hook: Any = connection.run_on_commit.pop(0)
            _, hook, robust = waiting_hook
            try:
                hook()
            except Exception:
                if not robust:
                    raise
                logging.getLogger("django.test").exception("a hook failed after the commit: %s", hook)


def run_all(alias: str, *, limit: int | None = None) -> list[Item]:
    """Handle the ready items with the queue's HANDLER, in this thread and in order; return the items that were handled.

    A queue of tasks runs its tasks; their results are kept, as in ``srq_consume``. Delayed items stay. An error of the
    handler or task fails the item, and is raised here. Database connections stay open.

    :param alias: of the queue.
    :param limit: the most items to handle; None: all.
    """
    if limit is not None and limit not in COUNTS_FROM_0:
        raise InvalidArgument(f"run_all: limit is {COUNTS_FROM_0.name}, or None; not {shown(limit)}")
    queue = queues[alias]
    if queue.config.tasks:
        return _run_tasks(queue, limit)
    handler = queue.config.load_handler()
    if handler is None:
        raise ConfigurationError(f"SRQ_QUEUES[{alias!r}] has no HANDLER to run.")
    batch = queue.config.handler_batch > 1  # here in lists of one item
    handle = adapt(handler, batch=batch)
    handled: list[Item] = []
    while limit is None or len(handled) < limit:
        with queue.processing(timeout=-1) as item:
            if not item:
                break
            if not batch:
                handle(item)
            elif errors := handle([item]):
                raise errors[0]
            handled.append(item)
    return handled


def _run_tasks(queue: Queue, limit: int | None) -> list[Item]:
    from django_srq.tasks.runner import TaskRunner

    runner = TaskRunner(queue)
    done: list[Item] = []
    while (limit is None or len(done) < limit) and (item := queue.get(-1)):
        _run_task(queue, runner, item)
        done.append(item)
    return done


def _run_task(queue: Queue, runner: TaskRunner, item: Item) -> None:
    held, began = arguments.ref_of(item, queue.alias), time.monotonic()
    try:
        runner.begin(item)
        value = completed(runner.run(item), wait_here)
        outcome = runner.outcome(item, value, time.monotonic() - began)
    except Discard as error:
        outcome = runner.discarded(item, error)
    except BaseException as error:
        verdict = runner.verdict(item, error)
        failed = operations.Failed(held, verdict.error or b"", verdict.delay, verdict.bury)
        call = operations.fail_many(queue.keys, [failed], max_deliveries=verdict.max_deliveries)
        (state,) = queue.link.call(call, queue=queue.alias)
        runner.failed(item, error, state)
        if isinstance(error, RetryLater) or (isinstance(error, Reject) and item.attempt is not None):
            return
        raise
    (removed,) = queue.link.call(operations.ack(queue.keys, [held], [outcome.kept]), queue=queue.alias)
    runner.acked(item, outcome, removed)


class QueueTestMixin(_Case):
    """For a Django ``TestCase``: each test has empty queues of its own, from ``setUp`` on.

    In a ``TestCase`` nothing is committed: put_on_commit puts, and tasks are enqueued, when ``commit`` is called, or at
    the end of ``captureOnCommitCallbacks(execute=True)``.
    """

    def setUp(self) -> None:
        super().setUp()
        isolation = isolated_queues()
        isolation.__enter__()
        self.addCleanup(isolation.__exit__, None, None, None)

    assert_put = staticmethod(assert_put)
    assert_enqueued = staticmethod(assert_enqueued)


try:
    import pytest
except ImportError:  # the mixin needs no pytest
    pass
else:

    @pytest.fixture
    def srq_queues() -> Iterator[QueueHandler]:
        """``django_srq.queues``, each queue empty and the test's own."""
        with isolated_queues() as handler:
            yield handler

    @pytest.fixture(autouse=True, scope="session")
    def srq_guard() -> Iterator[None]:
        """Forbid puts to queues that no test isolates: SRQ_TEST_GUARD is True, whatever the settings say.

        A project that does not want this overrides the fixture. A test that does not want it sets SRQ_TEST_GUARD to
        False.
        """
        guard()
        try:
            getattr(settings, "SRQ_TEST_GUARD", None)  # has the settings read, which override_settings does not
        except ImproperlyConfigured:  # a project without Django's settings
            yield
            return
        with override_settings(SRQ_TEST_GUARD=True):
            yield
