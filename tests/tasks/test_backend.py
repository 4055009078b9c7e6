"""SRQBackend: enqueue, and what it refuses; results; cancel."""

from __future__ import annotations

import asyncio
import datetime as dt
import pickle
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import ModuleType

import django
import pytest
from django.db import transaction
from django.tasks import TaskResultStatus, default_task_backend, task_backends
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_enqueued
from django.test import override_settings
from django.utils import timezone

from django_srq import (
    ConfigurationError,
    InvalidArgument,
    OutcomeUnknown,
    PayloadError,
    PayloadTooLarge,
    QueueFull,
    Reject,
    SafeRedisQueue,
    operations,
    queues,
)
from django_srq.queue import instrumentation
from django_srq.signals import item_put
from django_srq.tasks import Backoff, SRQBackend, SRQTask
from tests.support.proxy import Proxy
from tests.support.waiting import PATIENT
from tests.tasks import shop

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("tasks")]

READY = TaskResultStatus.READY
LATER = dt.datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)


class Other(SRQBackend):
    """A subclass, in a project of its own."""


@pytest.fixture
def enqueued():
    """The results that the signal brought."""
    received = []

    def receive(sender, task_result, **_):
        received.append((sender, task_result))

    task_enqueued.connect(receive)
    yield received
    task_enqueued.disconnect(receive)


def dead(queue, uid):
    queue.fail(uid, Reject("no"))


def result_of(result):
    return default_task_backend.get_result(result.id)


# -- enqueue


OPTIONS = [
    {},
    {"priority": -7},
    {"queue_name": "mail"},
    {"run_after": LATER},
    {"unique": True},
    {"unique": True, "priority": 5, "run_after": LATER},
    {"max_attempts": 3, "timeout": "5m", "result_ttl": 0, "on_commit": ["default"]},
    {"backoff": {"base": 2, "max": "10m"}},
    {"backoff": shop.soon},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "none")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_result_of_enqueue_is_that_of_get_result(options, asynchronous):
    task = shop.add.using(**options)
    if asynchronous:

        async def both():
            result = await task.aenqueue(1, b=2)
            return result, await default_task_backend.aget_result(result.id)

        result, found = asyncio.run(both())
    else:
        result = task.enqueue(1, b=2)
        found = result_of(result)
    assert found == result
    assert (result.status, result.args, result.kwargs, result.task) == (READY, [1], {"b": 2}, task)
    assert (result.errors, result.worker_ids, result.attempts, result.backend) == ([], [], 0, "default")
    assert abs(timezone.now() - result.enqueued_at) < dt.timedelta(minutes=5)
    assert result.started_at is result.finished_at is result.last_attempted_at is None
    with pytest.raises(ValueError, match="Task has not finished yet"):
        _ = result.return_value


def test_a_task_that_was_decorated_for_another_backend():
    result = shop.plain.using(priority=3).enqueue({"a": {1: (2, b"x")}}, b=[None, True, 1.5, "é"])
    assert result_of(result) == result
    assert result.args == [{"a": {"1": [2, "x"]}}]  # as the worker gets them
    assert result.kwargs == {"b": [None, True, 1.5, "é"]}


def test_an_item_has_the_name_and_the_arguments_and_no_more(client):
    result = shop.add.enqueue(1, b=2)
    queue = queues["default"]
    assert client.hget(str(queue.keys["items"]), result.id) == (
        b'{"task":"tests.tasks.shop.add","args":[1],"kwargs":{"b":2}}'
    )
    assert not client.exists(str(queue.keys["headers"]))  # an item with headers would slow down all acks of its queue


def test_an_id_is_a_uuid_that_tells_the_queue():
    ids = [shop.add.using(queue_name=name).enqueue(1).id for name in ["mail", "mail", "other"]]
    assert [uuid.UUID(id_).version for id_ in ids] == [7, 7, 7]
    assert ids[0][15:18] == ids[1][15:18] != ids[2][15:18]
    assert uuid.UUID(shop.add.using(unique=True).enqueue(1).id).version == 8


def test_priorities_are_the_order():
    for priority in (0, 100, -100, 7):
        shop.add.using(priority=priority).enqueue(priority)
    queue = queues["default"]
    assert [queue.get(-1).payload["args"] for _ in range(4)] == [[100], [7], [0], [-100]]


def test_a_task_with_a_time_is_delayed():
    result = shop.add.using(run_after=LATER).enqueue(1)
    (item,) = queues["default"].items("delayed")
    assert (item.uid, item.delivery.when) == (result.id, LATER.replace(microsecond=679000))
    shop.add.using(run_after=timezone.now() - dt.timedelta(days=1)).enqueue(1)
    assert queues["default"].counts()["ready"] == 1


def test_times_of_a_project_without_time_zones(settings):
    settings.USE_TZ, settings.TIME_ZONE = False, "Asia/Kolkata"
    naive = dt.datetime(2100, 1, 2, 3, 4, 5)
    result = shop.add.using(run_after=naive).enqueue(1)
    (item,) = queues["default"].items("delayed")
    assert item.delivery.when == dt.datetime(2100, 1, 1, 21, 34, 5, tzinfo=dt.UTC)
    assert result_of(result) == result
    assert result.task.run_after == naive
    assert result.enqueued_at.tzinfo is None
    assert abs(timezone.now() - result.enqueued_at) < dt.timedelta(minutes=5)


def test_a_naive_time_is_refused_in_a_project_with_time_zones():
    with pytest.raises(InvalidTask, match="run_after must be an aware datetime"):
        shop.add.using(run_after=dt.datetime(2100, 1, 1))


def test_the_signal_comes_when_the_task_is_in_the_queue(enqueued):
    seen = []

    def receive(sender, task_result, **_):
        seen.append(default_task_backend.get_result(task_result.id))

    task_enqueued.connect(receive)
    try:
        result = shop.add.enqueue(1)
    finally:
        task_enqueued.disconnect(receive)
    assert enqueued == [(SRQBackend, result)]
    assert seen == [result]
    many = shop.add.enqueue_many([(2,), (3,)])
    assert [found for _, found in enqueued[1:]] == many
    asyncio.run(shop.add.aenqueue(4))
    assert len(enqueued) == 4


def test_an_error_of_a_receiver_does_not_make_a_task_look_lost(enqueued):
    def receive(**_):
        raise ZeroDivisionError

    task_enqueued.connect(receive)
    try:
        assert result_of(shop.add.enqueue(1)).status == READY
    finally:
        task_enqueued.disconnect(receive)


def test_enqueue_in_an_event_loop_warns_that_it_blocks():
    async def enqueue():
        with pytest.warns(RuntimeWarning, match=r"enqueue\(\) .* blocks the event loop .*: use aenqueue\(\) instead"):
            default_task_backend.enqueue(shop.add, (1,), {})

    asyncio.run(enqueue())


def test_aenqueue_leaves_the_event_loop_to_others(settings, server_url, tasks):
    """While the server is silent, the loop goes on; and no thread waits in its place."""
    proxy = Proxy(server_url)
    tasks(URL=proxy.url, ON_COMMIT=False)

    async def enqueue():
        await shop.add.aenqueue(0)  # connects
        threads = threading.active_count()
        stalled = proxy.arm("stall reply")
        waiting = asyncio.ensure_future(shop.add.aenqueue(1))
        while not stalled.hits:
            await asyncio.sleep(0.001)
        assert not waiting.done()
        assert threading.active_count() == threads
        stalled.deliver()
        return await waiting

    try:
        assert result_of(asyncio.run(enqueue())).args == [1]
    finally:
        proxy.close()


def test_many_at_one_time_in_an_event_loop():
    async def enqueue():
        return await asyncio.gather(*(shop.aadd.aenqueue(n) for n in range(50)))

    results = asyncio.run(enqueue())
    assert [result_of(result).args for result in results] == [[n] for n in range(50)]


# -- what is refused, before anything is sent


def test_functions_that_no_worker_can_find():
    def local(a):
        return a

    with pytest.raises(InvalidTask, match="Task function must be defined at a module level"):
        SRQTask(func=local)
    with pytest.raises(InvalidTask, match="Task function must be defined at a module level"):
        SRQTask(func=lambda a: a)
    for task in (shop.under_another_name, SRQTask(func=shop.hidden), SRQTask(func=shop.Holder.method)):
        with pytest.raises(InvalidTask, match=f"{task.module_path} is not this task, .* Decorate the function itself"):
            task.enqueue(1)
    assert queues["default"].counts()["ready"] == 0


def test_a_task_of_the_main_module(monkeypatch):
    main = ModuleType("__main__")
    exec("def work(a):\n    return a\nwork.__module__ = '__main__'", vars(main))
    main.work = SRQTask(func=main.work)
    monkeypatch.setitem(__import__("sys").modules, "__main__", main)
    with pytest.raises(InvalidTask, match=r"__main__\.work: no worker can import __main__\. Move the task to a module"):
        main.work.enqueue(1)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (float("nan"), PayloadError, "cannot be serialised"),
        (float("inf"), PayloadError, "cannot be serialised"),
        ("\ud800", PayloadError, "cannot be serialised"),
        (dt.datetime.now(dt.UTC), TypeError, "Unsupported type"),
        ({1, 2}, TypeError, "Unsupported type"),
        (object(), TypeError, "Unsupported type"),
        (b"\xff", ValueError, "Unsupported value"),
        ("x" * 3_000, PayloadTooLarge, "the limit is 2000"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arguments_that_cannot_be_sent(tasks, value, error, text):
    tasks(MAX_PAYLOAD_BYTES=2000)
    with pytest.raises(error, match=text):
        shop.plain.enqueue(value)
    with pytest.raises(error, match=text):
        shop.plain.enqueue(a={"b": [value]})
    with pytest.raises(error, match=text):
        shop.add.enqueue_many([(1,), (value,)])
    assert queues["default"].counts()["ready"] == 0


def test_arguments_without_end():
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises((PayloadError, RecursionError)):
        shop.plain.enqueue(endless)


def test_queues_that_the_backend_does_not_have(tasks):
    with pytest.raises(InvalidTask, match="Queue 'nowhere' is not valid for backend"):
        shop.add.using(queue_name="nowhere")
    other = shop.add.using(queue_name="other")
    tasks(["default"])
    with pytest.raises(InvalidTask, match="Queue 'other' is not valid for backend"):
        other.enqueue(1)


def test_all_queues_of_the_settings(settings, tasks, server_url, prefix):
    """QUEUES is empty: every queue of SRQ_QUEUES without a handler."""
    settings.SRQ_QUEUES = {"default": {}, "orders": {"HANDLER": "a.b"}, "mail": {}}
    tasks([])
    assert result_of(shop.add.using(queue_name="mail").enqueue(1)).status == READY
    for name in ("orders", "nowhere"):
        with pytest.raises(InvalidTask, match=f"Queue '{name}' is not valid for backend"):
            shop.add.using(queue_name=name)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_attempts": 0}, "max_attempts must be a whole number above 0, or None, not 0"),
        ({"max_attempts": "3"}, "max_attempts must be a whole number above 0"),
        ({"max_attempts": True}, "max_attempts must be a whole number above 0"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0"),
        ({"timeout": "soon"}, "timeout must be a number of seconds above 0"),
        ({"result_ttl": -1}, "result_ttl must be a number of seconds from 0 on"),
        ({"unique": 1}, "unique must be True or False, not 1"),
        ({"on_commit": 1}, "on_commit must be True, False, an alias of DATABASES"),
        ({"on_commit": ""}, "on_commit must be True, False, an alias of DATABASES"),
        ({"on_commit": []}, "on_commit must be True, False, an alias of DATABASES"),
        ({"backoff": 5}, "backoff must be a Backoff, a dict or a function at module level, not 5"),
        ({"backoff": {"bass": 5}}, "backoff must be a dict with any of base, factor, max"),
        ({"backoff": {"base": -5}}, "backoff must be a dict with any of base, factor, max"),
        ({"backoff": lambda error, result: 1}, "backoff must be a Backoff, a dict or a function at module level"),
        ({"priority": 101}, "priority must be a whole number between -100 and 100"),
        ({"priority": 1.5}, "priority must be a whole number"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "text",
)
def test_wrong_options(options, text):
    with pytest.raises(InvalidTask, match=text):
        shop.add.using(**options)
    with pytest.raises(InvalidTask, match=text):
        SRQTask(func=shop.hidden, **options)


def test_using_knows_its_arguments():
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_attempt'"):
        shop.add.using(max_attempt=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'func'"):
        shop.add.using(func=shop.hidden)
    changed = shop.add.using(max_attempts=3, backoff={"base": 5}, timeout="5m", unique=True, on_commit=["a", "b"])
    assert changed.backoff == Backoff(base=5)
    assert (changed.timeout, changed.on_commit) == (300.0, ("a", "b"))
    assert changed.using(priority=3, max_attempts=None).max_attempts == 3  # None leaves it
    assert shop.add.max_attempts is None  # a new task was made
    hash(changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described(SRQTask):
    """Has a field that Django's tasks may get one day."""

    metadata: dict[str, str] | None = None


def test_fields_that_a_later_django_adds_are_kept(monkeypatch):
    monkeypatch.setattr(shop, "add", Described(func=shop.add.func))
    result = shop.add.using(metadata={"a": "b"}, priority=5).enqueue(1)
    assert result_of(result) == result
    assert result.task.metadata == {"a": "b"}
    assert shop.add.using(metadata=None).metadata is None


def test_tasks_and_results_can_be_pickled_since_django_6_1():
    task = shop.add.using(backoff=shop.soon, on_commit=["default"], priority=5)
    result = task.enqueue(1)
    if django.VERSION >= (6, 1):
        assert pickle.loads(pickle.dumps(task)) == task
        assert pickle.loads(pickle.dumps(result)) == result


def test_the_decorator_takes_the_options_since_django_6_1():
    from django.tasks import task

    if django.VERSION < (6, 1):
        with pytest.raises(TypeError):
            task(max_attempts=5)(shop.hidden)
    else:
        made = task(queue_name="mail", max_attempts=5, backoff={"base": 2}, unique=True)(shop.hidden)
        assert isinstance(made, SRQTask)
        assert (made.queue_name, made.max_attempts, made.backoff, made.unique) == ("mail", 5, Backoff(base=2), True)


def test_a_time_beyond_all_calendars():
    with pytest.raises((InvalidArgument, InvalidTask)):
        shop.add.using(run_after=dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-5)))).enqueue(1)


def test_a_queue_that_is_not_for_tasks(settings, tasks):
    settings.SRQ_QUEUES = {"mail": {"HANDLER": "a.b"}, "other": {"SERIALIZER": "pickle"}}
    for name, text in (("mail", r"SRQ_QUEUES\['mail'\] .*HANDLER"), ("other", r"SRQ_QUEUES\['other'\].*SERIALIZER")):
        with pytest.raises(ConfigurationError, match=text):
            shop.add.using(queue_name=name).enqueue(1)


def test_a_full_queue(tasks):
    tasks(MAX_LENGTH=1)
    shop.add.enqueue(1)
    with pytest.raises(QueueFull):
        shop.add.enqueue(2)


def test_a_lost_reply_names_the_id(tasks, server_url):
    proxy = Proxy(server_url)
    tasks(URL=proxy.url, PUT_TIMEOUT=0.3)
    shop.add.enqueue(0)
    proxy.arm("lose reply", times=10_000)
    try:
        with pytest.raises(OutcomeUnknown, match=r"ask get_result\('[-0-9a-f]{36}'\) before") as caught:
            shop.add.enqueue(1)
    finally:
        proxy.close()
    (uid,) = caught.value.in_doubt
    assert f"get_result({uid!r})" in str(caught.value)


def test_a_lost_reply_of_many(tasks, server_url, enqueued):
    """The second of three batches."""
    proxy = Proxy(server_url)
    tasks(URL=proxy.url, PUT_TIMEOUT=0.3)
    shop.add.enqueue(0)
    enqueued.clear()

    def lose(**_):
        proxy.arm("lose reply", times=10_000)

    item_put.connect(lose, weak=False, dispatch_uid="lose")
    text = r"ask get_result for each id of in_doubt before .* again; 1000 of 2500 items were put, 1000 may have been$"
    try:
        with pytest.raises(OutcomeUnknown, match=text) as caught:
            shop.add.enqueue_many([(n,) for n in range(2_500)])
    finally:
        item_put.disconnect(dispatch_uid="lose")
        proxy.close()
    assert (len(caught.value.put), len(caught.value.in_doubt)) == (1_000, 1_000)
    assert [result.id for _, result in enqueued] == caught.value.put


# -- enqueue_many


def test_many_tasks_in_few_round_trips(serve, tasks):
    server = serve()
    tasks(URL=server.url)
    shop.add.enqueue(0)
    before = calls_of(server)
    results = shop.add.enqueue_many([(n,) if n % 2 else {"a": n, "b": 1} for n in range(2_500)])
    assert calls_of(server) - before == 3
    assert len({result.id for result in results}) == 2_500
    assert [(result.args, result.kwargs) for result in results[:2]] == [([], {"a": 0, "b": 1}), ([1], {})]
    assert result_of(results[2_499]) == results[2_499]
    assert [item.payload["args"] for item in islice(queues["default"].items(), 4)] == [[0], [], [1], []]


def test_many_tasks_asynchronously_and_none():
    results = asyncio.run(shop.add.aenqueue_many([(1,), {"a": 2}]))
    assert [result_of(result) for result in results] == results
    assert shop.add.enqueue_many([]) == []
    assert shop.add.enqueue_many(iter([(1,)]))[0].args == [1]


def test_many_tasks_are_tuples_and_dicts():
    for wrong in ([1], ["text"], [None], [[1]]):
        with pytest.raises(TypeError, match="enqueue_many takes a dict or a tuple for each task, not"):
            shop.add.enqueue_many(wrong)


def test_an_error_says_which_of_many_are_in_the_queue(tasks, enqueued):
    tasks(MAX_LENGTH=1_500)
    with pytest.raises(QueueFull, match="1000 of 2500 items were put") as caught:
        shop.add.enqueue_many([(n,) for n in range(2_500)])
    assert len(caught.value.put) == 1_000
    assert [result.id for _, result in enqueued] == caught.value.put
    assert default_task_backend.get_result(caught.value.put[-1]).args == [999]


# -- unique


def test_a_unique_task_is_enqueued_once(enqueued):
    unique = shop.add.using(unique=True)
    first = unique.enqueue(1, b=2)
    assert unique.enqueue(1, b=2) == first
    assert unique.using(priority=9).enqueue(1, b=2) == first  # the arguments count, not the options
    assert shop.add.using(unique=True, run_after=LATER).enqueue(1, b=2).id == first.id
    assert asyncio.run(unique.aenqueue(1, b=2)) == first
    others = [unique.enqueue(1), unique.enqueue(b=2, a=1), unique.using(queue_name="mail").enqueue(1, b=2)]
    assert len({first.id, *(other.id for other in others)}) == 4
    assert shop.add.enqueue(1, b=2).id != first.id  # not unique
    assert len(enqueued) == 5


def test_the_order_of_keyword_arguments_does_not_count():
    unique = shop.add.using(unique=True)
    first = unique.enqueue(a=1, b={"c": 1, "d": 2})
    assert unique.enqueue(b={"d": 2, "c": 1}, a=1) == first


def test_a_unique_task_that_runs_is_returned():
    unique = shop.add.using(unique=True)
    first = unique.enqueue(1)
    item = queues["default"].get(-1)
    running = unique.enqueue(1)
    assert (running.id, running.status) == (first.id, TaskResultStatus.RUNNING)
    queues["default"].ack(item)
    again = unique.enqueue(1)
    assert (again.id, again.status) == (first.id, READY)
    assert again.enqueued_at >= first.enqueued_at


def test_a_dead_unique_task_is_replaced():
    unique = shop.add.using(unique=True)
    first = unique.enqueue(1)
    queue = queues["default"]
    queue.fail(queue.get(-1), "no")
    queue.get(-1)
    dead(queue, first.id)
    again = unique.enqueue(1)
    assert (again.id, again.status, again.errors, again.attempts) == (first.id, READY, [], 0)
    assert result_of(again) == again
    assert queue.counts()["dead"] == 0


def test_many_unique_tasks(enqueued):
    unique = shop.add.using(unique=True)
    there = unique.enqueue(2)
    results = unique.enqueue_many([(1,), (2,), (1,), (3,)])
    assert results[1] == there
    assert results[0] == results[2]
    assert [result.args for result in results] == [[1], [2], [1], [3]]
    assert queues["default"].counts()["ready"] == 3
    assert len(enqueued) == 3


def test_a_unique_task_that_many_threads_enqueue(enqueued):
    unique = shop.add.using(unique=True)
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: unique.enqueue(1), range(40)))
    assert len({result.id for result in results}) == len(enqueued) == queues["default"].counts()["ready"] == 1


def test_a_unique_task_that_ends_while_its_result_is_read(tasks, server_url, prefix, enqueued):
    """No result of it is kept, so it is enqueued again."""
    proxy = Proxy(server_url)
    tasks(URL=proxy.url)
    unique = shop.add.using(unique=True)
    unique.enqueue(1)
    reading = proxy.arm("stall request", operations.Script.named("results").sha)
    with ThreadPoolExecutor(1) as threads:
        again = threads.submit(unique.enqueue, 1)
        reading.wait()
        SafeRedisQueue(name=f"{prefix}.default", url=server_url).purge()
        reading.deliver()
        result = again.result(PATIENT)
    try:
        assert result_of(result) == result
        assert len(enqueued) == 2
        assert queues["default"].counts()["ready"] == 1
    finally:
        proxy.close()


def test_large_unique_tasks_that_are_there_already():
    """The server does not send so much in one reply."""
    unique = shop.echo.using(unique=True)
    large = [("x" * 700_000, n) for n in range(3)]
    results = unique.enqueue_many(large)
    assert unique.enqueue_many(large) == results
    assert [result.args[1] for result in results] == [0, 1, 2]


# -- results


def calls_of(server) -> int:
    """How many scripts a server has run."""
    with server.client() as client:
        stats = client.info("commandstats")
    return sum(
        stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "evalsha_ro", "eval", "eval_ro")
    )


def test_a_result_takes_one_round_trip(serve, tasks):
    server = serve()
    tasks([f"queue-{n}" for n in range(20)], URL=server.url)
    result = shop.add.using(queue_name="queue-19").enqueue(1)
    result.refresh()
    before = calls_of(server)
    result.refresh()
    assert calls_of(server) - before == 1
    assert default_task_backend.get_result(result.id) == result
    assert calls_of(server) - before == 2
    asyncio.run(result.arefresh())
    assert calls_of(server) - before == 3


@pytest.mark.parametrize(
    "unknown", ["123", "", "x" * 65, "e9b6e2a2-4bbd-41d7-8e33-7d9a7a0d4f5c", "é", "a b", str(uuid.UUID(int=7)), 5, None]
)
def test_unknown_results(unknown):
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(unknown)
    with pytest.raises(TaskResultDoesNotExist):
        asyncio.run(default_task_backend.aget_result(unknown))
    assert default_task_backend.cancel(unknown) is False


def test_an_id_may_be_a_uuid():
    result = shop.add.enqueue(1)
    assert default_task_backend.get_result(uuid.UUID(result.id)) == result


def test_a_result_in_another_process(project, server_url, prefix):
    project.add_to_settings(
        f"TASKS = {{'default': {{'BACKEND': 'django_srq.tasks.SRQBackend', 'QUEUES': ['default', 'mail', 'other'], "
        f"'OPTIONS': {{'URL': {server_url!r}, 'PREFIX': {prefix + '.{alias}'!r}}}}}}}\n"
        "SRQ_QUEUES = {}\nSRQ_DEFAULTS = {}"
    )
    result = shop.add.using(queue_name="mail", priority=3).enqueue(1)
    code = (
        "from django.tasks import default_task_backend as backend; "
        f"found = backend.get_result({result.id!r}); print(found.status, found.args, found.task.priority)"
    )
    code, out, err = project.run("shell", "--command", code)
    assert (code, out.splitlines()[-1:]) == (0, ["READY [1] 3"]), err


def test_a_task_that_was_moved_to_another_queue_is_found():
    result = shop.add.enqueue(1)
    assert queues["default"].move(queues["mail"]) == 1
    assert result_of(result).id == result.id


def test_a_renamed_task(monkeypatch):
    result = shop.add.enqueue(1)
    monkeypatch.delattr(shop, "add")
    text = r"tests\.tasks\.shop\.add cannot be imported here .*: was it renamed\? Keep an alias, or requeue after"
    with pytest.raises(TaskResultMismatch, match=text):
        default_task_backend.get_result(result.id)
    with pytest.raises(TaskResultMismatch, match=text):
        result.refresh()
    monkeypatch.setattr(shop, "add", 5, raising=False)
    with pytest.raises(TaskResultMismatch, match=r"tests\.tasks\.shop\.add is no task"):
        default_task_backend.get_result(result.id)


def test_an_item_that_is_no_task():
    queue = queues["default"]
    for payload in ({"a": 1}, [1], None, {"task": 5}, {"task": "a.b", "args": {}, "kwargs": {}}):
        with pytest.raises(TaskResultMismatch, match="describes no task"):
            default_task_backend.get_result(queue.put(payload))
    for path in ("", ".", "add", "..add", "a b.c", "a.1", "x" * 100_000 + ".y"):
        with pytest.raises(TaskResultMismatch, match="is no path of a task") as caught:
            default_task_backend.get_result(queue.put({"task": path, "args": [], "kwargs": {}}))
        assert len(str(caught.value)) < 500
    wrong = [{"run_after": "x"}, {"run_after": 5}, {"timeout": "x"}, {"priority": "x"}, {"priority": 101}]
    wrong += [{"queue_name": 5}, {"at": -1}, {"at": True}, {"at": "x"}, {"unique": 1}, {"backoff": 5}]
    for more in ({"options": 1}, {"backend": 1}, *({"options": options} for options in wrong)):
        uid = queue.put({"task": "tests.tasks.shop.add", "args": [], "kwargs": {}, **more})
        with pytest.raises(TaskResultMismatch, match="options"):
            default_task_backend.get_result(uid)
    for options in ({"of_a_newer_version": 1}, {"func": "x"}, {"takes_context": True}, {"backend": "x"}, {"at": 2**52}):
        uid = queue.put({"task": "tests.tasks.shop.add", "args": [], "kwargs": {}, "options": options})
        result = default_task_backend.get_result(uid)
        assert result.task == shop.add
        result.refresh()


def test_get_result_of_another_task():
    result = shop.add.enqueue(1)
    assert shop.add.get_result(result.id) == result
    with pytest.raises(TaskResultMismatch):
        shop.aadd.get_result(result.id)


# -- cancel


def test_a_task_that_waits_can_be_cancelled():
    waiting = [shop.add.enqueue(1), shop.add.using(run_after=LATER).enqueue(2), shop.add.using(priority=5).enqueue(3)]
    waiting.append(shop.add.using(queue_name="mail").enqueue(4))
    for result in waiting:
        assert default_task_backend.cancel(result.id) is True
        assert default_task_backend.cancel(result.id) is False
        result.refresh()
        assert result.status == TaskResultStatus.FAILED
        assert [error.exception_class_path for error in result.errors] == ["django_srq.tasks.exceptions.TaskCancelled"]
        assert "cancelled before it ran" in result.errors[0].traceback
        assert result.finished_at >= result.enqueued_at
        assert (result.attempts, result.started_at) == (0, None)
    assert queues["default"].counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0}


def test_a_task_that_does_not_wait_is_not_cancelled():
    queue = queues["default"]
    result = shop.add.enqueue(1)
    queue.get(-1)
    assert default_task_backend.cancel(result.id) is False
    dead(queue, result.id)
    assert default_task_backend.cancel(result.id) is False
    assert asyncio.run(default_task_backend.acancel(result.id)) is False


def test_a_unique_task_can_be_enqueued_again_after_its_cancellation():
    unique = shop.add.using(unique=True)
    first = unique.enqueue(1)
    assert asyncio.run(default_task_backend.acancel(first.id)) is True
    again = unique.enqueue(1)
    assert (again.id, again.status, again.errors) == (first.id, READY, [])
    assert result_of(again) == again


def test_a_cancelled_task_of_a_backend_that_keeps_no_results(tasks):
    tasks(RESULT_TTL=0)
    result = shop.add.enqueue(1)
    assert default_task_backend.cancel(result.id) is True
    with pytest.raises(TaskResultDoesNotExist):
        result.refresh()


# -- several backends


def test_each_backend_has_its_queues(settings, server_url, prefix):
    options = {"URL": server_url, "PREFIX": prefix + ".{alias}"}
    ours = "django_srq.tasks.SRQBackend"
    settings.TASKS = {
        "default": {"BACKEND": ours, "OPTIONS": options},
        "second": {"BACKEND": f"{__name__}.Other", "QUEUES": ["mail"], "OPTIONS": options},
    }
    result = shop.add.using(backend="second", queue_name="mail").enqueue(1)
    assert (result.backend, result.task.backend) == ("second", "second")
    assert task_backends["second"].get_result(result.id) == result
    result.refresh()
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(result.id)
    with pytest.raises(InvalidTask, match="Queue 'default' is not valid for backend"):
        shop.add.using(backend="second")


def test_two_backends_cannot_have_the_same_queue(settings, server_url, prefix):
    entry = {"BACKEND": "django_srq.tasks.SRQBackend", "OPTIONS": {"URL": server_url}}
    settings.TASKS = {"default": entry, "second": entry}
    with pytest.raises(
        ConfigurationError, match=r"TASKS\['second'\] and TASKS\['default'\] have the same queue 'default'"
    ):
        shop.add.enqueue(1)


def test_override_settings_makes_new_backends_and_queues(server_url, prefix):
    result = shop.add.enqueue(1)
    entry = {
        "BACKEND": "django_srq.tasks.SRQBackend",
        "QUEUES": ["default", "only"],
        "OPTIONS": {"URL": server_url, "PREFIX": prefix + ".second.{alias}", "MAX_LENGTH": 7},
    }
    with override_settings(TASKS={"default": entry}):
        assert list(queues) == ["default", "only"]
        assert queues["default"].max_length == 7
        with pytest.raises(TaskResultDoesNotExist):
            default_task_backend.get_result(result.id)
    assert list(queues) == ["default", "mail", "other"]
    assert result_of(result) == result


def test_a_wrong_option_of_the_backend(tasks):
    tasks(ON_COMMIT=5)
    with pytest.raises(ConfigurationError, match=r"TASKS\['default'\]\['OPTIONS'\]\['ON_COMMIT'\] must be True, False"):
        shop.add.enqueue(1)


# -- integrations


class Watching(instrumentation.Integration):
    """Notes puts, and adds a header to each item, as tracing does."""

    def __init__(self):
        self.seen = []

    def put(self, call):
        call.headers["trace"] = "5"
        step = call.step

        def end(error):
            self.seen.append((step, list(call.uids), call.batch, type(error).__name__))

        return end


@pytest.fixture
def watching():
    integration = Watching()
    instrumentation.install(integration)
    yield integration
    instrumentation.uninstall(integration)


def test_integrations_see_the_puts(watching, django_db_blocker):
    result = shop.add.enqueue(1)
    many = shop.add.enqueue_many([(1,), (2,)])
    assert watching.seen == [("put", [result.id], False, "NoneType"), ("put", [r.id for r in many], True, "NoneType")]
    assert queues["default"].get(-1).headers == {"trace": "5"}
    assert result_of(result).enqueued_at == result.enqueued_at
    watching.seen.clear()
    with django_db_blocker.unblock(), transaction.atomic():
        later = shop.add.enqueue(1)
        assert watching.seen == [("prepare", [later.id], False, "NoneType")]
    assert watching.seen[1:] == [("send", [later.id], False, "NoneType")]
    assert [item.headers for item in queues["default"].items()][-1] == {"trace": "5"}
