"""Tasks that failed are grouped by task and error, whoever describes the error; all other items by the error alone."""

from __future__ import annotations

import json

import pytest

from django_srq import SafeRedisQueue, operations
from django_srq.operations import DeliveryRef
from django_srq.queue import failure

pytestmark = pytest.mark.versions

ERROR = {"type": "ValueError", "message": "no", "fingerprint": "ValueError tasks.py:check"}


def task(name: str = "shop.tasks.welcome") -> dict[str, object]:
    return {"task": name, "args": [1], "kwargs": {}}


def encoded(payload: object) -> str:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"))


def fail(queue: SafeRedisQueue, payload: object, error: dict[str, object], *, bury: bool = True) -> str:
    uid = queue.put(encoded(payload), priority=100)
    held = DeliveryRef(uid, queue.get(-1).token)
    call = operations.fail(queue.keys, held, error=json.dumps(error).encode(), bury=bury, delay=60)
    queue.link.call(call, queue="q")
    return uid


def groups(queue: SafeRedisQueue, state: str = "dead") -> dict[str, int]:
    ask = operations.dead_groups if state == "dead" else operations.retry_groups
    return {group.name: group.count for group in queue.link.call(ask(queue.keys), queue="q")}


@pytest.mark.parametrize("state", ["dead", "delayed"])
def test_failed_tasks_are_grouped_by_task_and_error(queue, state):
    for name in ("shop.tasks.welcome", "shop.tasks.welcome", "größe.tasks.maß"):
        fail(queue, task(name), {**ERROR, "keep": 9}, bury=state == "dead")
    assert groups(queue, state) == {
        "shop.tasks.welcome: ValueError tasks.py:check": 2,
        "größe.tasks.maß: ValueError tasks.py:check": 1,
    }


def test_a_group_of_a_task_is_requeued_by_its_name_or_by_its_error(queue):
    for name in ("shop.tasks.welcome", "shop.tasks.welcome", "shop.tasks.remind"):
        fail(queue, task(name), {**ERROR, "keep": 9})
    assert queue.requeue(error="shop.tasks.welcome: ValueError tasks.py:check") == 2
    assert queue.requeue(error="ValueError") == 1
    assert groups(queue) == {}


def test_a_task_whose_lease_ended_is_in_a_group_of_its_task(make_queue, client):
    queue = make_queue(max_deliveries=1)
    queue.put(encoded(task()))
    queue.get(-1)
    client.zadd(queue.keys["leases"], dict.fromkeys(client.zrange(queue.keys["leases"], 0, -1), 1))
    queue.recover()
    ((name, count),) = groups(queue).items()
    assert name.startswith("shop.tasks.welcome: ")
    assert (name.partition(": ")[2] in ("ConsumerLost", "LeaseEnded"), count) == (True, 1)


def test_a_task_that_killed_its_process_is_in_a_group_of_its_task(queue):
    died = json.loads(failure.of_death("killed by SIGKILL", consumer="c1.1", run_time=1, memory=0))
    fail(queue, task(), died)
    assert groups(queue) == {"shop.tasks.welcome: Crashed: killed by SIGKILL": 1}


@pytest.mark.parametrize(
    "payload",
    [task(), {"task": "resize", "args": [1]}, {"task": "shop.tasks.welcome"}, "shop.tasks.welcome", 17],
)
def test_the_errors_of_a_handler_are_grouped_without_a_task(queue, payload):
    fail(queue, payload, ERROR)
    assert groups(queue) == {"ValueError tasks.py:check": 1}


@pytest.mark.parametrize(
    "payload", [{"task": "resize", "args": [1]}, {"task": "shop.tasks.welcome"}, 17, {"a": task()}]
)
def test_what_is_no_task_is_grouped_without_one(queue, payload):
    fail(queue, payload, {"type": "ConsumerLost"})
    assert groups(queue) == {"ConsumerLost": 1}
