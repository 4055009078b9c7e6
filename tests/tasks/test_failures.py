"""What becomes of a task when a process, a reply or the server is lost, at each moment of its life."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from contextlib import closing

import pytest
from django.tasks import TaskResultStatus, default_task_backend
from django.tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch

from django_srq import OutcomeUnknown, PayloadTooLarge, QueueUnavailable, queues
from django_srq.tasks import exceptions
from tests.consumer.test_supervisor import children
from tests.support.proxy import Proxy
from tests.support.waiting import PATIENT, wait_for
from tests.tasks import deeds
from tests.tasks.test_consume import configured, ended, refreshed

__all__ = ["configured"]  # a fixture
pytestmark = [pytest.mark.versions, pytest.mark.once, pytest.mark.usefixtures("configured")]

READY, RUNNING, FAILED, SUCCESSFUL = (
    TaskResultStatus.READY,
    TaskResultStatus.RUNNING,
    TaskResultStatus.FAILED,
    TaskResultStatus.SUCCESSFUL,
)
LONG = 600  # seconds; a lease that does not end during a test


@pytest.fixture
def proxy(server_url):
    with closing(Proxy(server_url)) as proxy:
        yield proxy


@pytest.fixture
def behind(configured, settings, proxy, server_url):
    """Commands reach the server through the proxy, this process reaches it directly."""

    def configure(**options: object) -> None:
        configured(URL=proxy.url, LEASE=LONG, **options)
        settings.SRQ_DEFAULTS = {**settings.SRQ_DEFAULTS, "URL": server_url}

    configure()
    return configure


@pytest.fixture
def finishing(project):
    """The consumer logs each task_finished."""
    app = project.folder / "finishing"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "tasks.py").write_text(
        "from django.tasks.signals import task_finished\nfrom tests.tasks.deeds import _say\n"
        "def finished(sender, task_result, **_):\n    _say('finished', task_result.status)\n"
        "task_finished.connect(finished, weak=False)\n"
    )
    project.add_to_settings("INSTALLED_APPS = [*INSTALLED_APPS, 'finishing']")


def classes(result):
    return [error.exception_class for error in result.errors]


def finish(process) -> str:
    """Wait until a consumer has nothing left to do; its log."""
    _, err = process.communicate(timeout=PATIENT)
    assert process.returncode == 0, err
    return err


# -- the producer


PRODUCER = """
import django, os, signal
django.setup()
from django.db import connection, transaction
from tests.tasks.deeds import nothing

def die():
    os.kill(os.getpid(), signal.SIGKILL)

with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE orders (id integer)")
with transaction.atomic():
    connection.cursor().execute("INSERT INTO orders VALUES (1)")
    {first}
    nothing.enqueue("it")
    {second}
{third}
"""


@pytest.mark.parametrize(
    ("deaths", "rows", "ready"),
    [
        ({"second": "die()"}, 0, 0),
        ({"first": "transaction.on_commit(die)"}, 1, 0),  # lost, as no outbox has it
        ({"third": "die()"}, 1, 1),
    ],
    ids=["before the commit", "between commit and put", "after the put"],
)
def test_the_producer_dies(project, deaths, rows, ready):
    code = PRODUCER.format(**{"first": "", "second": "", "third": "", **deaths})
    process = project.start(program=["-c", code])
    process.communicate(timeout=PATIENT)
    assert process.returncode == -signal.SIGKILL
    with closing(sqlite3.connect(project.folder / "db")) as database:
        assert database.execute("SELECT count(*) FROM orders").fetchone() == (rows,)
    assert queues["default"].counts()["ready"] == ready


def test_the_reply_to_a_put_is_lost(project, settings, proxy, server_url):
    """The call is repeated in its slot."""
    deeds.add.enqueue(1)  # the server knows the script now
    settings.SRQ_DEFAULTS = {**settings.SRQ_DEFAULTS, "URL": proxy.url, "TIMEOUT": 5}
    fault = proxy.arm("lose reply", b"deeds.add")
    result = deeds.add.enqueue(2)
    assert fault.hits == 1
    assert queues["default"].counts()["ready"] == 2
    assert ended(result, project).return_value == 2
    assert project.lines() == ["add 1 0", "add 2 0"]


def test_all_replies_to_a_put_are_lost(project, settings, proxy):
    deeds.add.enqueue(1)
    settings.SRQ_DEFAULTS = {**settings.SRQ_DEFAULTS, "URL": proxy.url, "TIMEOUT": 0.3}
    proxy.arm("lose reply", b"deeds.add", times=1000)
    with pytest.raises(OutcomeUnknown) as raised:
        deeds.add.enqueue(2)
    proxy.disarm()
    (id_,) = raised.value.in_doubt
    assert id_ in str(raised.value)
    result = default_task_backend.get_result(id_)
    assert ended(result, project).return_value == 2


# -- a child


def test_a_child_dies_before_it_begins_a_task(project):
    """It held the task already: that is no attempt."""
    first, second = deeds.die.enqueue("first"), deeds.add.enqueue(1, 1)
    ended(second, project, "--prefetch", "2")
    assert (second.return_value, second.attempts, second.errors) == (2, 1, [])
    assert refreshed(first).attempts == 2


def test_a_child_dies_in_a_task(project, finishing):
    result = ended(deeds.die.enqueue("it"), project)
    assert (result.status, result.return_value, result.attempts) == (SUCCESSFUL, "it", 2)
    assert classes(result) == [exceptions.Crashed]
    assert project.lines() == ["die it", "die it", "finished SUCCESSFUL"]


def test_children_die_in_every_attempt(project):
    result = ended(deeds.die.using(max_attempts=2).enqueue("it", times=9), project)
    assert (result.status, result.attempts, project.lines()) == (FAILED, 2, ["die it"] * 2)
    assert classes(result) == [exceptions.Crashed] * 2
    assert queues["default"].counts()["dead"] == 1


def test_children_die_more_often_than_the_queue_delivers(project, configured):
    """The task's own number of attempts holds for crashes, too."""
    configured(MAX_DELIVERIES=2)
    result = ended(deeds.die.using(max_attempts=5).enqueue("it", times=2), project)
    assert (result.status, result.attempts) == (SUCCESSFUL, 3)


@pytest.mark.parametrize("attempts", [None, 1])
@pytest.mark.parametrize("name", ["value", "none"])
def test_a_child_dies_after_the_task_and_before_its_ack(project, behind, proxy, name, attempts):
    """A value died with the child, so the task runs again. Without a value, the supervisor acks it with its result.

    The task has not failed, so this is none of its attempts.
    """
    task, arguments = {"value": (deeds.add, (1, 1)), "none": (deeds.nothing, ("it",))}[name]
    ended(task.enqueue(*arguments), project)  # the server knows the scripts now
    project.log.write_text("")
    process = project.start("srq_consume", "--max-items", "2" if name == "value" else "1")
    queue = queues["default"]
    wait_for(lambda: queue.snapshot().consumers, "the consumer")
    fault = proxy.arm("stall request", b'"SUCCESSFUL"')
    result = task.using(max_attempts=attempts).enqueue(*arguments)
    fault.wait()
    (child,) = children(process)
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: refreshed(result).status == SUCCESSFUL, "the result")
    finish(process)
    runs = 2 if name == "value" else 1
    assert (refreshed(result).attempts, len(project.lines())) == (1, runs)
    assert result.return_value == (2 if name == "value" else None)
    assert classes(result) == []
    assert queue.audit() == []


# -- supervisor and host


def test_the_supervisor_dies_and_its_child_finishes_the_task(project):
    result = deeds.wait.enqueue("it")
    process = project.start("srq_consume")
    project.said("wait it")
    process.kill()
    process.wait()
    assert refreshed(result).status == RUNNING
    project.say("it")
    wait_for(lambda: refreshed(result).status == SUCCESSFUL, "the result")
    assert (result.return_value, result.attempts) == ("it", 1)


def test_the_host_dies(project, configured):
    """The lease ends, and another consumer runs the task."""
    configured(LEASE=1)
    result = deeds.wait.enqueue("it")
    process = project.start("srq_consume")
    project.said("wait it")
    assert refreshed(result).status == RUNNING
    project.kill(process)
    project.say("it")
    other = project.start("srq_consume", "--max-items", "1")
    finish(other)
    assert (refreshed(result).return_value, result.attempts) == ("it", 2)
    assert classes(result) == [exceptions.ConsumerLost]


# -- the ack


def test_the_reply_to_an_ack_is_lost(project, behind, proxy, finishing):
    ended(deeds.add.enqueue(0), project)
    project.log.write_text("")
    result = deeds.add.enqueue(1, 1)
    fault = proxy.arm("lose reply", b'"SUCCESSFUL"', times=2)
    ended(result, project)
    assert fault.hits == 2
    assert (result.return_value, result.attempts) == (2, 1)
    assert project.lines() == ["add 1 1", "finished SUCCESSFUL"]


# -- the server


@pytest.mark.parametrize("persists", [True, False])
def test_the_server_restarts(project, configured, serve, persists):
    """Results live and die with the items."""
    options = ["--appendonly", "yes", "--appendfsync", "always"] if persists else []
    server = serve(*options)
    configured(URL=server.url)
    done = ended(deeds.add.enqueue(1, 1), project)
    waiting = deeds.add.enqueue(2, 2)
    server.kill()
    server.start()
    if persists:
        assert refreshed(done).return_value == 2
        assert ended(waiting, project).return_value == 4
    else:
        for result in (done, waiting):
            with pytest.raises(TaskResultDoesNotExist):
                result.refresh()


def test_the_server_is_full(project, configured, serve):
    """It takes no further task, and it does take the end of those that it has, with their results."""
    server = serve("--maxmemory-policy", "noeviction")
    configured(URL=server.url)
    result = deeds.wait.enqueue("it")
    process = project.start("srq_consume", "--max-items", "1")
    project.said("wait it")
    with server.client() as client:
        client.config_set("maxmemory", 1)
    with pytest.raises(QueueUnavailable):
        deeds.add.enqueue(1)
    project.say("it")
    finish(process)
    assert (refreshed(result).status, result.return_value) == (SUCCESSFUL, "it")


# -- the task


def test_a_result_that_is_too_large(project, configured):
    configured(MAX_PAYLOAD_BYTES=10_000)
    result = ended(deeds.large.using(max_attempts=2).enqueue(10_000), project)
    assert (result.status, classes(result)) == (FAILED, [PayloadTooLarge] * 2)
    assert project.lines() == ["large 10000"] * 2
    assert len(ended(deeds.large.enqueue(9_000), project).return_value) == 9_000


def test_a_task_takes_longer_than_its_timeout(project):
    result, after = deeds.hang.using(timeout=0.5, max_attempts=2).enqueue("it"), deeds.nothing.enqueue("after")
    ended(result, project)
    assert (result.status, classes(result)) == (FAILED, [exceptions.TaskTimeout] * 2)
    assert "longer than its timeout of 0.5 s" in result.errors[0].traceback
    assert queues["default"].snapshot().stats.get("crashed", 0) == 0
    assert refreshed(after).status == SUCCESSFUL
    assert sorted(project.lines()) == ["after", "hang it", "hang it"]


def test_a_task_that_was_renamed(project):
    """Dead at once, with the sentence that helps; nobody runs it, and nobody forgets it."""
    uid = queues["default"].put({"task": "tests.tasks.deeds.gone", "args": [], "kwargs": {}})
    code, _, err = project.run("srq_consume", "--burst")
    sentence = "tests.tasks.deeds.gone cannot be imported here"
    assert code == 0
    assert sentence in err
    (dead,) = queues["default"].items("dead")
    assert (dead.uid, dead.deliveries) == (uid, 1)
    assert "was it renamed? Keep an alias, or requeue after the next deployment" in dead.error["message"]
    with pytest.raises(TaskResultMismatch, match="cannot be imported here"):
        default_task_backend.get_result(uid)


def test_a_task_that_lost_an_argument(project):
    uid = queues["default"].put(
        {"task": "tests.tasks.deeds.add", "args": [1], "kwargs": {"c": 3}, "options": {"max_attempts": 2}}
    )
    result = ended(default_task_backend.get_result(uid), project)
    assert (result.status, classes(result)) == (FAILED, [TypeError] * 2)
    assert queues["default"].counts()["dead"] == 1


def test_older_versions_beside_this_one(project):
    """An older version acks without a result: its script keeps none. It does no harm to other tasks."""
    queue, results = queues["default"], [deeds.add.enqueue(number) for number in range(2)]
    (item,) = queue.get_many(1)
    queue.ack(item)
    ended(results[1], project)
    with pytest.raises(TaskResultDoesNotExist):
        results[0].refresh()
    assert results[1].return_value == 1
    assert queue.audit() == []


def test_a_result_that_is_asked_for_while_the_task_ends(project):
    """A task is always in the queue or among the results; one that has ended stays so.

    One that a worker has fetched ahead is RUNNING, and READY again when the worker gives it back.
    """
    ids = [deeds.add.enqueue(number).id for number in range(200)]
    seen = dict.fromkeys(ids, READY)
    ended_all, errors = threading.Event(), []

    def ask() -> None:
        try:
            while not ended_all.is_set():
                for id_ in ids:
                    status = default_task_backend.get_result(id_).status
                    assert status in ([SUCCESSFUL] if seen[id_] == SUCCESSFUL else [READY, RUNNING, SUCCESSFUL])
                    seen[id_] = status
        except BaseException as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    finish(project.start("srq_consume", "--burst", "--processes", "2"))
    ended_all.set()
    asking.join(PATIENT)
    assert errors == []
    assert {default_task_backend.get_result(id_).status for id_ in ids} == {SUCCESSFUL}
