"""Queues of tasks: what the worker asks of their runner, and what the server keeps of their results."""

from __future__ import annotations

import logging
import signal
from contextlib import closing

import pytest
from django.db import connections
from django.db.backends.signals import connection_created

from django_srq import operations
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription, Supervisor
from django_srq.consumer.clock import lease_time
from django_srq.consumer.ledger import ACKING, DONE, NOTHING, RUNNING, STUB, VALUED, Ledger
from django_srq.consumer.processes.child_handle import ChildHandle
from django_srq.consumer.runner import Outcome
from django_srq.operations import DeliveryRef
from django_srq.operations.scripts import MOST_BYTES
from django_srq.queue.backoff import Backoff
from django_srq.queue.serializers import JSON
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.consumer.test_supervisor import LONG, account_for, taken
from tests.consumer.test_wakeups import running
from tests.support.proxy import Proxy
from tests.support.task_runner import TaskRunner, call, kept
from tests.support.waiting import PATIENT, wait_for


@pytest.fixture
def queue(make_queue):
    return make_queue(serializer=JSON())


def subscription(queue, runner: TaskRunner, **options) -> Subscription:
    return Subscription(queue, runner.run, **{"lease": LONG, "runner": runner, **options})


def work(queue, runner: TaskRunner, plan: dict | None = None, **options) -> None:
    """Run all tasks that are ready."""
    plan = ConsumerOptions(**{"burst": True, **(plan or {})})
    InProcessConsumer([subscription(queue, runner, **options)], options=plan).run()


def views(queue, *uids: str) -> list[operations.TaskView | None]:
    return queue.link.call(operations.results(queue.keys, uids), queue=queue.alias)


def outcome(queue, uid: str) -> dict | None:
    (view,) = views(queue, uid)
    return view.result["outcome"] if view and view.result else None


# -- results


@pytest.mark.parametrize(
    "plan", [{}, {"prefetch": 20}, {"threads": 3}, {"threads": 3, "prefetch": 7}, {"max_items": 60, "burst": False}]
)
def test_each_ack_brings_the_result_of_its_task(queue, plan):
    """The acks go with a claim, at once, or at the end."""
    uids, runner = queue.put_many([call("add", number, 1) for number in range(60)]), TaskRunner()
    work(queue, runner, plan)
    assert [view.result["outcome"] for view in views(queue, *uids)] == [
        {"s": "SUCCESSFUL", "r": number + 1} for number in range(60)
    ]
    assert sorted(runner.told) == sorted(("acked", uid, kept(number + 1), True) for number, uid in enumerate(uids))
    assert not any(queue.counts().values())
    assert queue.audit() == []


def test_queues_of_tasks_and_of_handlers_are_served_together(make_queue):
    tasks, plain, seen, runner = (
        make_queue("t", serializer=JSON()),
        make_queue("p", serializer=JSON()),
        [],
        TaskRunner(),
    )
    uids = tasks.put_many([call("add", number, 1) for number in range(20)])
    plain.put_many(range(20))
    subscriptions = [subscription(tasks, runner), Subscription(plain, lambda item: seen.append(item.payload))]
    InProcessConsumer(subscriptions, options=ConsumerOptions(burst=True, threads=2)).run()
    assert all(view.state == "done" for view in views(tasks, *uids))
    assert sorted(seen) == list(range(20))
    assert not any([*tasks.counts().values(), *plain.counts().values()])


@pytest.mark.parametrize("prefetch", [None, 5])
def test_an_ack_whose_reply_is_lost_brings_the_result_once(queue, server_url, prefetch):
    work(queue, TaskRunner())  # the server knows the scripts now
    uids, runner = queue.put_many([call("add", number, 1) for number in range(10)]), TaskRunner()
    with closing(Proxy(server_url)) as proxy, closing(Link(client_from_url(proxy.url), timeout=PATIENT)) as link:
        fault = proxy.arm("lose reply", b"SUCCESSFUL", times=3)
        work(type(queue)(name=queue.name, serializer=JSON(), link=link), runner, {"prefetch": prefetch})
        assert fault.hits == 3
    assert sorted(runner.told) == sorted(("acked", uid, kept(number + 1), True) for number, uid in enumerate(uids))
    assert [view.result["outcome"]["r"] for view in views(queue, *uids)] == list(range(1, 11))
    assert queue.snapshot().stats["acked"] == 10


def test_a_call_brings_a_bounded_number_of_bytes_of_results(queue, project, monkeypatch):
    """Many threads may have finished while one of them claims; their results together may be too large for a server."""
    for name, value in project.variables.items():
        monkeypatch.setenv(name, value)
    large, number, sizes, claim = 300_000, 8, [], type(queue).claim
    queue.put_many([call("slow", f"it{n}") for n in range(number)])

    class Large(TaskRunner):
        def outcome(self, item, value, seconds):
            return Outcome(kept("x" * large), valued=True)

    def after_all(self, *arguments, **options):
        if options.get("results") and not sizes:
            wait_for(lambda: len(consumer._worker._buffer._finished) == number - 1, "the other threads")
        sizes.append(sum(map(len, options.get("results", ()))))
        return claim(self, *arguments, **options)

    acking = operations.ack

    def ack(keys, held, results=()):
        sizes.append(sum(map(len, results)))
        return acking(keys, held, results)

    monkeypatch.setattr(operations, "ack", ack)
    consumer = InProcessConsumer([subscription(queue, Large())], options=ConsumerOptions(threads=number, prefetch=1))
    with running(consumer):
        wait_for(lambda: len(project.lines()) == number, "all tasks to begin")
        sizes.clear()
        monkeypatch.setattr(type(queue), "claim", after_all)
        project.go.touch()
        wait_for(lambda: not any(queue.counts().values()), "their ends")
    assert sum(sizes) > number * large
    assert large < max(sizes) < MOST_BYTES + 2 * large


def test_the_result_of_an_item_that_was_settled_before_is_not_kept(queue):
    uid, runner = queue.put(call("add", 1, 1)), TaskRunner()
    running_it = runner.run
    runner.run = lambda item: (queue.ack(item.uid), running_it(item))[1]
    work(queue, runner)
    assert runner.told == [("acked", uid, kept(2), False)]
    assert views(queue, uid) == [None]


def test_a_discarded_task_is_acked_with_its_result(queue, caplog):
    uid, runner = queue.put(call("discard")), TaskRunner()
    work(queue, runner)
    assert outcome(queue, uid) == {"s": "FAILED", "e": {"type": "Discard", "message": "not wanted", "traceback": ""}}
    assert [told[0] for told in runner.told] == ["acked"]
    assert "discarded queue=" in caplog.text


# -- attempts that fail


@pytest.mark.parametrize("name", ["fail", "interrupt", "leave", "aleave"])
@pytest.mark.parametrize("threads", [1, 2])
def test_whatever_a_task_raises_its_attempt_has_failed(queue, monkeypatch, name, threads):
    """Also a KeyboardInterrupt in the main thread, where srq_consume handles Ctrl-C in its own way."""
    monkeypatch.setattr(signal, "getsignal", lambda number: lambda *arguments: None)
    uid, runner = queue.put(call(name, max_attempts=2)), TaskRunner()
    work(queue, runner, {"threads": threads, "max_items": 2, "burst": False})
    (dead,) = queue.items("dead")
    kinds = {"fail": "LookupError", "interrupt": "KeyboardInterrupt"}
    kind = kinds.get(name, "SystemExit")
    assert (dead.uid, dead.deliveries, [error["type"] for error in dead.errors]) == (uid, 2, [kind] * 2)
    # Another thread may be told of the second attempt before this one is told of the first.
    assert sorted(runner.told) == [("failed", uid, kind, "dead"), ("failed", uid, kind, "ready")]


def test_a_keyboard_interrupt_of_a_signal_ends_the_consumer(queue):
    queue.put(call("interrupt"))
    with pytest.raises(KeyboardInterrupt):
        work(queue, TaskRunner())
    assert queue.counts()["dead"] == 0


def test_a_value_that_cannot_be_kept_fails_the_attempt(queue):
    uid = queue.put(call("add", 1, 2, unkept=True, max_attempts=1))
    work(queue, TaskRunner())
    (dead,) = queue.items("dead")
    assert (dead.uid, dead.error["type"]) == (uid, "ValueError")


def test_the_runner_decides_on_delay_and_number_of_attempts(make_queue):
    queue = make_queue(serializer=JSON(), max_deliveries=1)
    more, none = queue.put_many([call("fail", max_attempts=5, delay=1000), call("fail", delay=1000)])
    runner = TaskRunner()
    work(queue, runner)
    (delayed,), (dead,) = queue.items("delayed"), queue.items("dead")
    assert (delayed.uid, dead.uid) == (more, none)
    assert sorted(runner.told) == sorted(
        [("failed", more, "LookupError", "delayed"), ("failed", none, "LookupError", "dead")]
    )


def test_without_a_verdict_the_rules_of_the_queue_hold(make_queue, caplog):
    queue = make_queue(serializer=JSON(), max_deliveries=3)
    uid = queue.put(call("fail", unjudged=True))
    work(queue, TaskRunner(), backoff=Backoff(base=1000))
    (item,) = queue.items("delayed")
    assert (item.uid, item.error["type"]) == (uid, "LookupError")
    assert "cannot judge a failed task" in caplog.text


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(call("renamed"), "there is no task renamed"), (call("add", 1, 1, max_attempts=0), "its attempts are used up")],
)
def test_a_task_that_cannot_be_run_is_dead_at_once(queue, payload, reason):
    uid, runner = queue.put(payload), TaskRunner()
    work(queue, runner)
    (dead,) = queue.items("dead")
    assert (dead.uid, dead.deliveries, dead.error["message"]) == (uid, 1, reason)
    assert runner.told[0][3] == "dead"


def test_a_runner_that_raises_when_it_is_told_of_an_end_ends_nothing(queue, caplog):
    class Rude(TaskRunner):
        def acked(self, item, outcome, removed):
            raise SystemExit(4)

        failed = acked

    uids = queue.put_many([call("add", 1, 1), call("fail", max_attempts=1), call("add", 2, 2)])
    work(queue, Rude())
    assert [view.state for view in views(queue, *uids)] == ["done", "dead", "done"]
    assert caplog.text.count("cannot tell of the end of a task") == 3


# -- asynchronous tasks, and synchronous ones beside them


def test_asynchronous_tasks_run_without_concurrency_too(queue):
    uid = queue.put(call("async_add", 2, 3))
    work(queue, TaskRunner())
    assert outcome(queue, uid) == {"s": "SUCCESSFUL", "r": 5}


def test_with_a_concurrency_as_many_synchronous_tasks_run_at_one_time_as_there_are_threads(queue, project, monkeypatch):
    for name, value in project.variables.items():
        monkeypatch.setenv(name, value)
    queue.put_many([call("slow", f"sync{number}") for number in range(5)])
    queue.put_many([call("aslow", f"async{number}") for number in range(5)])
    runner = TaskRunner()
    consumer = InProcessConsumer(
        [subscription(queue, runner, asynchronous=True)], options=ConsumerOptions(threads=2, concurrency=10)
    )
    with running(consumer):
        wait_for(lambda: len(project.lines()) == 7, "two synchronous tasks, and all others")
        assert sum(line.startswith("sync") for line in project.lines()) == 2
        # Those that wait for a turn do not count as running: a time limit would hold for them.
        wait_for(lambda: sum(entry.state == RUNNING for entry in consumer._ledger) == 7, "seven running")
        project.go.touch()
        wait_for(lambda: not any(queue.counts().values()), "all tasks")
    assert len(runner.told) == 10


def test_tasks_that_wait_for_their_turn_are_given_back_at_a_stop(queue, project, monkeypatch):
    for name, value in project.variables.items():
        monkeypatch.setenv(name, value)
    asked, uids = [], queue.put_many([call("slow", f"it{number}") for number in range(3)])

    class Asked(TaskRunner):
        def is_asynchronous(self, item):
            asked.append(item.uid)
            return super().is_asynchronous(item)

    consumer = InProcessConsumer(
        [subscription(queue, Asked(), asynchronous=True)], options=ConsumerOptions(threads=1, concurrency=3)
    )
    with running(consumer):
        wait_for(lambda: len(project.lines()) == 1 and sorted(asked) == sorted(uids), "the first task; the others wait")
        consumer.stop()
        wait_for(lambda: queue.counts()["ready"] == 2, "the others to be given back")
        assert {item.deliveries for item in queue.items("ready")} == {0}
        project.go.touch()
    assert [view.state for view in views(queue, *uids)].count("done") == 1
    assert len(project.lines()) == 1


@pytest.fixture
def second_database(django_db_blocker, tmp_path):
    """The database "second": in a file, as one in memory is never closed."""
    connections.settings["second"] = {**connections.settings["default"], "NAME": str(tmp_path / "second")}
    with django_db_blocker.unblock():
        yield
    del connections.settings["second"]


@pytest.mark.usefixtures("second_database")
def test_with_a_concurrency_as_many_connections_to_a_database_are_open_as_there_are_threads(queue):
    """Each of many threads would keep its own."""
    opened, counted = set(), []

    class Asking(TaskRunner):
        def run(self, item):
            connections["second"].ensure_connection()
            counted.append(sum(each.connection is not None for each in list(opened)))

    def note(connection, **_):
        opened.add(connection)

    connection_created.connect(note)
    queue.put_many([call("nothing")] * 30)
    try:
        work(queue, Asking(), {"threads": 2, "concurrency": 10}, asynchronous=True)
    finally:
        connection_created.disconnect(note)
    assert len(opened) > 2
    assert max(counted) <= 2


# -- the log


def test_the_log_names_the_tasks(queue, caplog):
    caplog.set_level(logging.INFO, "django_srq.consumer")
    ok, bad = queue.put_many([call("add", 1, 1), call("fail", max_attempts=1)])
    work(queue, TaskRunner())
    assert f"serving queue={queue.alias} tasks server=" in caplog.text
    records = {record.uid: record for record in caplog.records if hasattr(record, "outcome")}
    assert [(records[uid].task, records[uid].outcome) for uid in (ok, bad)] == [("add", "acked"), ("fail", "failed")]
    assert f"uid={bad} task=fail deliveries=1" in records[bad].getMessage()


def test_a_name_of_a_task_does_not_control_a_terminal(queue, caplog):
    queue.put({**call("\x1b[2J\nx" + "y" * 1000)})
    work(queue, TaskRunner())
    (record,) = [record for record in caplog.records if hasattr(record, "outcome")]
    assert record.task.startswith("\\x1b[2J xyyy")
    assert len(record.task) == 200


# -- what a dead child leaves


@pytest.mark.parametrize("acking", [False, True])
def test_a_dead_childs_finished_tasks(queue, acking):
    """One that returned None is acked with that result, one whose value died with the child is delivered again."""
    runner, uids = TaskRunner(), queue.put_many([call("nothing"), call("add", 1, 1), call("nothing")])
    ledger, supervisor = Ledger(3), Supervisor([subscription(queue, runner)], ConsumerOptions())
    for index, (item, result) in enumerate(zip(taken(queue, "c1.1", 3), (STUB, VALUED, NOTHING), strict=True)):
        ledger.hold(0, DeliveryRef(item.uid, item.token), until=lease_time() + LONG)
        ledger.start(index)
        ledger.finish(index, result)
        if acking:
            ledger.ack(index)
    assert [entry.is_to_be_released for entry in ledger] == [False, True, False]
    assert {entry.state for entry in ledger} == {ACKING if acking else DONE}
    account_for(supervisor, ChildHandle("c1.1", 0, ledger, 0))
    assert outcome(queue, uids[0]) == {"s": "SUCCESSFUL", "r": None}
    assert views(queue, uids[2]) == [None]
    (again,) = queue.items()
    assert (again.uid, again.deliveries, again.delivery.crashes, again.error) == (uids[1], 0, 0, None)
    assert queue.snapshot().stats["acked"] == 2


def test_a_new_entry_has_nothing_of_the_one_before(queue):
    ledger = Ledger(1)
    index, _ = ledger.hold(0, DeliveryRef("a", "t"), until=0)
    ledger.allow(index, 3)
    ledger.limit(index, 5.0, delay=1.0)
    (entry,) = ledger
    assert (entry.limit, entry.delay, entry.most_deliveries) == (5.0, 1.0, 3)
    ledger.finish(index, VALUED)
    ledger.free(index)
    ledger.hold(0, DeliveryRef("b", "t"), until=0)
    (entry,) = ledger
    assert (entry.limit, entry.result, entry.most_deliveries) == (0, NOTHING, 0)
