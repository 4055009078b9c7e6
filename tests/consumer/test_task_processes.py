"""Tasks in child processes: their time limits, and what becomes of them when processes die."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess

import pytest

from django_srq.consumer import ConsumerOptions
from django_srq.consumer.clock import lease_time
from django_srq.consumer.ledger import VALUED, Ledger
from django_srq.consumer.log_thread import LogThread
from django_srq.consumer.processes import orphan
from django_srq.consumer.processes.orphan import Orphan
from django_srq.operations import DeliveryRef
from tests.consumer.test_supervisor import LONG, children, empty, taken
from tests.consumer.test_tasks import outcome, queue, subscription, views
from tests.support.task_runner import TaskRunner, call
from tests.support.waiting import PATIENT, wait_for

__all__ = ["queue"]  # a fixture


@pytest.fixture
def consume(project, server_url, queue):
    """Starts a consumer of the queue."""

    def start(**options):
        arguments = server_url, queue.name, json.dumps(options)
        return project.start(*arguments, program=["-m", "tests.support.run_tasks"])

    return start


def end(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a consumer; returns its log."""
    _, log = process.communicate(timeout=PATIENT)
    assert process.returncode == 0, log
    return log


def test_a_task_whose_process_dies_runs_again(queue, consume, project):
    uids = queue.put_many([call("die", "it"), call("add", 1, 1)])
    end(consume(burst=True))
    assert [view.result["outcome"]["s"] for view in views(queue, *uids)] == ["SUCCESSFUL"] * 2
    (error,) = views(queue, uids[0])[0].result["errors"]
    assert error["type"] == "Crashed"
    assert len(project.lines()) == 2


def test_an_attempt_that_takes_longer_than_the_tasks_own_limit_has_failed(queue, consume, project):
    """It is no crash, waits as the runner says, and ends after as many attempts as the runner allows."""
    uid = queue.put(call("hang", "it", timeout=0.3, max_attempts=2, delay=0.2))
    log = end(consume(max_items=2))
    (dead,) = queue.items("dead")
    assert (dead.uid, dead.deliveries, dead.delivery.crashes) == (uid, 2, 0)
    assert [error["type"] for error in dead.errors] == ["TaskTimeout"] * 2
    assert dead.error["message"] == "the task took longer than its timeout of 0.3 s"
    assert queue.snapshot().stats.get("crashed", 0) == 0
    assert queue.snapshot().stats["failed"] == 2
    assert log.count("error=TaskTimeout") == 2
    assert "state=delayed" in log
    assert len(project.lines()) == 2


def test_a_task_beside_one_that_takes_too_long_is_cut_and_not_blamed(queue, consume, project):
    queue.put(call("hang", "long", timeout=1, max_attempts=1))
    other = queue.put(call("slow", "other"))
    process = consume(max_items=3, threads=2)
    wait_for(lambda: len(project.lines()) == 2, "both tasks")
    wait_for(lambda: queue.counts()["dead"] == 1, "the end of the long one")
    project.go.touch()
    end(process)
    (error,) = views(queue, other)[0].result["errors"]
    assert "a task took longer than its timeout of 1 s" in error["message"]
    assert queue.snapshot().stats.get("crashed", 0) == 0
    assert outcome(queue, other) == {"s": "SUCCESSFUL", "r": None}


@pytest.mark.parametrize("options", [{"time_limit": 0.3}, {"subscription": {"time_limit": 0.3}}])
def test_a_shorter_limit_of_consumer_or_queue_counts_as_a_crash(queue, consume, options):
    queue.put(call("hang", "it", timeout=100))
    end(consume(max_items=1, **options))
    (item,) = queue.items()
    assert (item.deliveries, item.delivery.crashes, item.error["type"]) == (1, 1, "Crashed")


def test_the_tasks_own_limit_holds_beside_a_longer_one(queue, consume):
    queue.put(call("hang", "it", timeout=0.3, max_attempts=1))
    end(consume(max_items=1, time_limit=100))
    (dead,) = queue.items("dead")
    assert dead.error["type"] == "TaskTimeout"


def test_an_orphaned_task_is_held_to_its_own_limit(queue, consume, project):
    queue.put(call("hang", "it", timeout=2, max_attempts=1))
    process = consume()
    wait_for(lambda: project.lines(), "the task")
    (child,) = children(process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: queue.counts()["dead"] == 1, "its end")
    (dead,) = queue.items("dead")
    assert (dead.error["type"], dead.delivery.crashes) == ("TaskTimeout", 0)
    wait_for(lambda: not os.path.exists(f"/proc/{child}"), "the end of its process")


def test_the_keeper_gives_back_a_task_whose_value_died_with_an_orphan(queue, monkeypatch):
    monkeypatch.setattr(orphan, "MARGIN", 0.0)
    process = subprocess.Popen(["sleep", str(LONG)], start_new_session=True)
    uids = queue.put_many([call("add", 1, 1), call("hang", "it")])
    ledger = Ledger(2)
    ledger._head.pid = process.pid
    for index, item in enumerate(taken(queue, "c1.1", 2)):
        ledger.hold(0, DeliveryRef(item.uid, item.token), until=lease_time() + LONG)
        ledger.start(index)
    ledger.finish(0, VALUED)
    ledger.limit(1, 0.2, delay=-1)
    log = LogThread(logging.getLogger("tests.orphans"))
    one = Orphan("c1.1", [subscription(queue, TaskRunner())], ledger, ConsumerOptions(grace=LONG), log)
    wait_for(lambda: not one.look(trouble=False), "its end", seconds=PATIENT)
    assert process.wait(60) == -9
    (again,), (dead,) = queue.items(), queue.items("dead")
    assert (again.uid, again.deliveries, again.delivery.crashes) == (uids[0], 0, 0)
    assert (dead.uid, dead.error["type"]) == (uids[1], "TaskTimeout")
    assert not empty(queue)
