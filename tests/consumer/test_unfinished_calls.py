"""Results of the project's callables: awaitable work is awaited, and work that nobody would do fails the item."""

from __future__ import annotations

import asyncio
import warnings

import pytest

from django_srq import queues, signals
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription, is_asynchronous
from django_srq.queue.backoff import Backoff
from django_srq.testing import run_all
from tests.support import odd_handlers
from tests.support.odd_handlers import DONE, NOT_DONE, generator, working

SLOW_BACKOFF = {"BACKOFF": {"base": 1000}}


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "said"
    path.touch()
    monkeypatch.setenv("SRQ_TEST_LOG", str(path))
    yield path
    odd_handlers.close_loops()


def configure(project, server_url, prefix, names, **options):
    project.configure(
        {name: {"HANDLER": f"tests.support.odd_handlers.{name}", **SLOW_BACKOFF, **options} for name in names},
        {"URL": server_url, "PREFIX": prefix + ".{alias}"},
    )


def put_each(names):
    for name in names:
        queues[name].put(name)


@pytest.mark.parametrize("arguments", [(), ("--concurrency", "4", "--threads", "2"), ("--processes", "0")])
def test_work_is_done_or_the_item_fails(project, server_url, prefix, arguments):
    names = DONE.keys() | NOT_DONE.keys()
    project.settings.SRQ_DEFAULTS = {}
    configure(project, server_url, prefix, names)
    put_each(names)
    code, _, err = project.run("srq_consume", "--burst", *arguments)
    assert code == 0
    assert sorted(project.lines()) == sorted(f"did {name}" for name in names & DONE.keys())
    for name in names:
        assert queues[name].counts()["delayed"] == (name in NOT_DONE), name
    for name in NOT_DONE:
        (failed,) = queues[name].items("delayed")
        assert failed.delivery.error["type"] == "TypeError"
        assert "which nobody runs: its work is not done" in failed.delivery.error["message"]
    assert "generator" in next(queues["generator"].items("delayed")).delivery.error["message"]
    assert "async generator" in next(queues["async_generator"].items("delayed")).delivery.error["message"]
    assert "never awaited" not in err
    assert "Warning" not in err


@pytest.mark.parametrize("name", DONE)
def test_run_all_waits_for_awaitable_work(project, server_url, prefix, log, name):
    configure(project, server_url, prefix, [name])
    put_each([name])
    assert len(run_all(name)) == 1
    assert log.read_text() == f"did {name}\n"
    assert sum(queues[name].counts().values()) == 0


@pytest.mark.parametrize("name", NOT_DONE)
def test_run_all_raises_when_nobody_would_do_the_work(project, server_url, prefix, log, name):
    configure(project, server_url, prefix, [name])
    put_each([name])
    with pytest.raises(TypeError, match="which nobody runs"):
        run_all(name)
    assert queues[name].counts()["delayed"] == 1


def test_run_all_in_an_event_loop_leaves_no_coroutine_behind(project, server_url, prefix):
    """It cannot wait there, and raises an error that says so."""
    configure(project, server_url, prefix, ["plain"])
    put_each(["plain"])

    async def run() -> None:
        run_all("plain")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="event loop"):
            asyncio.run(run())
    assert queues["plain"].counts()["delayed"] == 1


def test_the_result_of_a_subscription_s_own_handle_is_awaited_too(queue, log):
    queue.put_many(["a", "b"])
    handles = {b"a": lambda item: working("a"), b"b": lambda item: generator("b")}
    subscription = Subscription(queue, lambda item: handles[item.payload](item), backoff=Backoff(base=1000))
    assert InProcessConsumer([subscription], burst=True).run() == 2
    assert log.read_text() == "did a\n"
    assert [item.payload for item in queue.items("delayed")] == [b"b"]


@pytest.mark.parametrize("kind", ["coroutine", "generator", "coroutine of a generator"])
def test_the_result_of_a_batch_handler(queue, log, kind):
    queue.put_many(range(3))

    async def awaited(items):
        return {1: ValueError("no")}

    async def deferred(items):
        return generator("x")

    handle = {
        "coroutine": lambda items: awaited(items),
        "generator": generator,
        "coroutine of a generator": lambda items: deferred(items),
    }[kind]
    InProcessConsumer(
        [Subscription(queue, handle, batch=3, backoff=Backoff(base=1000))], options=ConsumerOptions(burst=True)
    ).run()
    errors = [item.delivery.error["type"] for item in queue.items("delayed")]
    assert errors == (["ValueError"] if kind == "coroutine" else ["TypeError"] * 3)


def test_handlers_that_need_an_event_loop_are_recognised():
    seen = {name for name, handler in DONE.items() if is_asynchronous(handler)}
    assert seen >= {"partial", "object", "partial_of_object", "method", "twice", "a_task"}
    assert not seen & {"class", "awaited", "plain", "sync_object", "in_executor"}


def test_a_task_of_a_handler_that_exits_does_not_end_the_loop(project, server_url, prefix):
    configure(project, server_url, prefix, ["leaving_in_a_task"])
    queues["leaving_in_a_task"].put_many(["bad", "good"])
    assert project.run("srq_consume", "--burst")[0] == 0
    assert project.lines() == ["good"]
    (failed,) = queues["leaving_in_a_task"].items("delayed")
    assert failed.delivery.error["type"] == "SystemExit"


@pytest.mark.parametrize("kind", ["coroutine", "generator"])
def test_a_function_decorated_with_processing(queue, log, kind):
    uid = queue.put("a")
    function = queue.processing(timeout=-1)({"coroutine": lambda: working("it"), "generator": lambda: (yield)}[kind])
    if kind == "coroutine":
        function()
        assert log.read_text() == "did it\n"
        assert sum(queue.counts().values()) == 0
    else:
        with pytest.raises(TypeError, match="which nobody runs"):
            function()
        assert [item.uid for item in queue.items("delayed")] == [uid]


# -- receivers and callbacks


def test_the_result_of_a_receiver_is_awaited(queue, log, caplog):
    receivers = [plain_receiver(working), plain_receiver(generator)]
    for receiver in receivers:
        signals.item_put.connect(receiver, weak=False)
    try:
        queue.put("a")
        asyncio.run(queue.aput("b"))
    finally:
        for receiver in receivers:
            signals.item_put.disconnect(receiver)
    assert log.read_text() == "did it\n" * 2
    assert caplog.text.count("receivers could not be called") == 2
    assert len(queue) == 2


def plain_receiver(function):
    return lambda sender, **about: function("it")


@pytest.mark.parametrize("kind", [SystemExit, odd_handlers.Odd, KeyboardInterrupt])
def test_a_receiver_that_exits_stops_no_put(queue, caplog, kind):
    def leave(sender: type, **about: object) -> None:
        raise kind

    signals.item_put.connect(leave, weak=False)
    try:
        if kind is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                queue.put("a")
        else:
            assert queue.put("a")
            assert "receivers could not be called" in caplog.text
    finally:
        signals.item_put.disconnect(leave)
    assert len(queue) == 1


def test_the_result_of_on_batch_is_awaited(queue):
    told: list[int] = []

    async def on_batch(number: int) -> None:
        await asyncio.sleep(0)
        told.append(number)

    queue.put_many(range(3))
    assert queue.purge("ready", on_batch=on_batch) == 3
    queue.put_many(range(2))
    assert asyncio.run(queue.apurge("ready", on_batch=on_batch)) == 2
    assert sum(told) == 5
    queue.put("a")
    with pytest.raises(TypeError, match="which nobody runs"):
        queue.purge("ready", on_batch=lambda number: (yield number))
