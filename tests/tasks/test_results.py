"""What a result says in each state of a task: status, errors, attempts, workers, times."""

from __future__ import annotations

import datetime as dt
import json
import uuid

import pytest
from django.tasks import TaskResultStatus, default_task_backend
from django.tasks.exceptions import TaskResultDoesNotExist
from django.utils import timezone

from django_srq import Discard, Reject, RetryLater, operations, queues
from django_srq.consumer.runner import EARLIER_ERRORS, Unrunnable
from django_srq.queue import failure
from django_srq.queue.calls import send
from django_srq.tasks import envelope, exceptions, results
from django_srq.transport.sansio import run
from tests.support.waiting import wait_for
from tests.tasks import shop
from tests.tasks.consuming import consume

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("tasks")]

READY, RUNNING, FAILED, SUCCESSFUL = (
    TaskResultStatus.READY,
    TaskResultStatus.RUNNING,
    TaskResultStatus.FAILED,
    TaskResultStatus.SUCCESSFUL,
)
LATER = dt.datetime(2100, 1, 2, tzinfo=dt.UTC)


@pytest.fixture
def queue():
    return queues["default"]


def paths(result):
    return [error.exception_class_path for error in result.errors]


def kept(outcome):
    return operations.kept(60, 100, outcome)


def ack(queue, item, outcome):
    """As a consumer acks a task."""
    ref = operations.DeliveryRef(item.uid, item.token, item.delivery.number)
    assert run(send(queue, operations.ack(queue.keys, [ref], [kept(outcome)]))) == [True]


def in_order(*moments):
    assert list(moments) == sorted(moments)


# -- the states


def test_a_task_that_waits():
    for result in (shop.add.enqueue(1), shop.add.using(run_after=LATER).enqueue(1)):
        result.refresh()
        assert (result.status, result.attempts, result.is_finished) == (READY, 0, False)


def test_a_task_that_runs(queue):
    result = shop.add.enqueue(1)
    item = queue.get(-1)
    result.refresh()
    assert (result.status, result.is_finished) == (RUNNING, False)
    assert result.worker_ids == [item.token.partition("/")[0]]
    assert result.started_at == result.last_attempted_at
    in_order(result.enqueued_at - dt.timedelta(minutes=1), result.started_at, timezone.now() + dt.timedelta(minutes=1))
    assert result.finished_at is None
    with pytest.raises(ValueError, match="Task has not finished yet"):
        _ = result.return_value


def test_a_task_whose_consumer_is_gone_does_not_run_even_if_no_other_consumer_finds_that_out(queue):
    result = shop.add.enqueue(1)
    queue.link.call(operations.claim(queue.keys, consumer="c1", lease=0.2, legacy_lease=1), queue=queue.alias)
    result.refresh()
    assert result.status == RUNNING

    def status():
        result.refresh()
        return result.status

    wait_for(lambda: status() == READY, "the end of the lease")
    assert (result.attempts, result.started_at) == (0, None)
    assert queue.counts()["in_flight"] == 1


def test_a_lease_that_is_never_recovered_does_not_end(queue):
    result = shop.add.enqueue(1)
    queue.link.call(
        operations.claim(queue.keys, consumer="c1", lease=0.001, legacy_lease=1, recover=False), queue=queue.alias
    )
    wait_for(
        lambda: queue.link.call(operations.ended(queue.keys, timezone.now()), queue=queue.alias), "the end of the lease"
    )
    result.refresh()
    assert result.status == RUNNING


def test_a_task_that_succeeded(queue):
    result = shop.add.enqueue(1)
    item = queue.get(-1)
    ack(queue, item, results.encode_success({"a": [1, None, "é"]}))
    result.refresh()
    assert (result.status, result.return_value, result.errors) == (SUCCESSFUL, {"a": [1, None, "é"]}, [])
    assert (result.attempts, result.worker_ids) == (1, [item.token.partition("/")[0]])
    in_order(result.started_at, result.finished_at)
    assert (result.args, result.task) == ([1], shop.add)


@pytest.mark.parametrize("value", [None, False, 0, "", [], 1.5, 2**60, {"e": 1}])
def test_return_values(queue, value):
    result = shop.add.enqueue(1)
    ack(queue, queue.get(-1), results.encode_success(value))
    result.refresh()
    assert (result.status, result.return_value) == (SUCCESSFUL, value)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "\ud800"])
def test_values_that_json_cannot_hold(value):
    with pytest.raises(ValueError):
        results.encode_success([value])


def test_a_task_that_was_discarded(queue):
    result = shop.add.enqueue(1)
    ack(queue, queue.get(-1), results.encode_failure(Discard("not wanted")))
    result.refresh()
    assert (result.status, paths(result), result.attempts) == (FAILED, ["django_srq.exceptions.Discard"], 1)
    assert result.errors[0].exception_class is Discard
    assert "not wanted" in result.errors[0].traceback
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


def test_a_task_between_two_attempts(queue):
    result = shop.fail.using(backoff={"base": 1000}).enqueue()
    consume()
    result.refresh()
    assert (result.status, paths(result), result.attempts) == (READY, ["tests.tasks.shop.Odd"], 1)
    assert result.errors[0].exception_class is shop.Odd
    assert result.errors[0].traceback.startswith("Traceback (most recent call last):")
    assert result.errors[0].traceback.endswith("tests.tasks.shop.Odd: no\n")
    assert result.started_at == result.last_attempted_at >= result.enqueued_at
    assert result.finished_at is None
    assert queue.counts()["delayed"] == 1
    worker = result.worker_ids
    queue.run_now(result.id)
    item = queue.get(-1)
    result.refresh()
    assert (result.status, result.attempts) == (RUNNING, 2)
    assert result.worker_ids == [*worker, item.token.partition("/")[0]]
    assert result.started_at < result.last_attempted_at


def test_a_dead_task_has_every_error(queue):
    result = shop.fail.using(max_attempts=3).enqueue("first")
    consume()
    result.refresh()
    assert (result.status, paths(result)) == (FAILED, ["tests.tasks.shop.Odd"] * 3)
    assert len(result.worker_ids) == result.attempts == 3
    assert all(result.worker_ids)
    in_order(result.started_at, result.last_attempted_at, result.finished_at)
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


def test_of_many_attempts_the_last_ten_are_known(queue):
    result = shop.fail.using(max_attempts=13).enqueue()
    consume()
    result.refresh()
    assert (result.status, result.attempts, len(result.errors)) == (FAILED, 13, EARLIER_ERRORS + 1)
    assert result.worker_ids[:3] == [results.UNKNOWN] * 3
    assert results.UNKNOWN not in result.worker_ids[3:]


def test_a_requeued_task_is_ready_and_counts_its_attempts_anew(queue):
    result = shop.fail.using(max_attempts=2).enqueue()
    consume()
    assert queue.requeue(result.id)
    result.refresh()
    assert (result.status, result.attempts, result.finished_at) == (READY, 0, None)
    assert len(result.errors) in (0, 2)
    consume()
    result.refresh()
    assert (result.status, result.attempts) == (FAILED, 2)


def test_a_task_that_succeeded_after_failures(queue):
    result = shop.fail.using(max_attempts=5).enqueue()
    for _ in range(2):
        item = queue.get(-1)
        record = failure.describe(shop.Odd("no"), consumer="host:1:a", keep=EARLIER_ERRORS)
        ref = operations.DeliveryRef(item.uid, item.token, item.delivery.number)
        run(send(queue, operations.fail(queue.keys, ref, error=record, max_deliveries=5)))
    ack(queue, queue.get(-1), results.encode_success(5))
    result.refresh()
    assert (result.status, result.return_value, paths(result)) == (SUCCESSFUL, 5, ["tests.tasks.shop.Odd"] * 2)
    assert result.worker_ids[:2] == ["host:1:a"] * 2
    assert result.attempts == 3
    in_order(result.started_at, result.last_attempted_at, result.finished_at)


@pytest.mark.parametrize("how", ["purge", "drop", "ack"])
def test_a_task_that_is_gone(queue, how):
    result = shop.add.enqueue(1)
    if how == "ack":
        queue.ack(queue.get(-1))  # another program, which keeps no result
    elif how == "drop":
        queue.drop(result.id)
    else:
        queue.purge()
    with pytest.raises(TaskResultDoesNotExist):
        result.refresh()


def test_a_result_that_is_not_kept_any_longer(queue, tasks):
    result = shop.add.enqueue(1)
    item = queue.get(-1)
    ref = operations.DeliveryRef(item.uid, item.token, item.delivery.number)
    brief = operations.kept(0.001, 100, results.encode_success(1))
    run(send(queue, operations.ack(queue.keys, [ref], [brief])))

    def gone():
        try:
            result.refresh()
        except TaskResultDoesNotExist:
            return True
        return False

    wait_for(gone, "the end of the result")


def test_a_unique_task_has_the_time_of_its_last_enqueue(queue):
    """Also when it has ended: a unique id says nothing about the time."""
    result = shop.add.using(unique=True).enqueue(1)
    ack(queue, queue.get(-1), results.encode_success(1))
    found = default_task_backend.get_result(result.id)
    assert (found.status, found.enqueued_at) == (SUCCESSFUL, result.enqueued_at)
    assert result.enqueued_at is not None


def test_a_task_with_an_id_of_its_own_has_the_time_of_its_put(queue):
    payload = {"task": "tests.tasks.shop.add", "args": [1], "kwargs": {}}
    queue.put(payload, uid="mine")
    found = default_task_backend.get_result("mine")
    assert abs(timezone.now() - found.enqueued_at) < dt.timedelta(minutes=5)
    ack(queue, queue.get(-1), results.encode_success(1))
    assert default_task_backend.get_result("mine").enqueued_at == found.enqueued_at


def test_times_without_time_zones(settings, queue):
    settings.USE_TZ, settings.TIME_ZONE = False, "Asia/Kolkata"
    result = shop.add.enqueue(1)
    ack(queue, queue.get(-1), results.encode_success(1))
    result.refresh()
    moments = [result.enqueued_at, result.started_at, result.last_attempted_at, result.finished_at]
    assert [moment.tzinfo for moment in moments] == [None] * 4
    assert all(abs(timezone.now() - moment) < dt.timedelta(minutes=5) for moment in moments)


# -- the errors


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("x"), ValueError),
        (KeyError("x"), KeyError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (shop.Odd("x"), shop.Odd),
        (RetryLater(5), RetryLater),
        (Reject("x"), Reject),
        (Unrunnable("x"), Reject),
        (json.JSONDecodeError("x", "y", 0), json.JSONDecodeError),
        ("a text", exceptions.Failed),
    ],
    ids=lambda value: getattr(type(value), "__name__", "") if not isinstance(value, type) else value.__name__,
)
def test_the_class_of_an_error_can_be_imported(queue, error, kind):
    result = shop.add.enqueue(1)
    queue.fail(queue.get(-1), error, delay=1000)
    result.refresh()
    assert issubclass(result.errors[0].exception_class, kind)
    assert result.errors[0].traceback


@pytest.mark.parametrize("name", ["Crashed", "ConsumerLost", "LeaseEnded", "Failed"])
def test_errors_that_no_code_raised_have_classes(name):
    from django.utils.module_loading import import_string

    assert issubclass(import_string(exceptions.path_of(name)), Exception)


def test_an_error_of_a_name_that_nobody_knows():
    assert exceptions.path_of("Strange") == "django_srq.tasks.exceptions.Failed"
    assert exceptions.path_of("builtins") == "django_srq.tasks.exceptions.Failed"
    assert exceptions.path_of("shown") == "django_srq.tasks.exceptions.Failed"


# -- for the runner


def test_the_result_that_a_task_sees(queue):
    enqueued = shop.attempt.using(priority=5, unique=True).enqueue(1)
    for deliveries in (1, 2):
        item = queue.get(-1)
        call = envelope.read(item.payload)
        result = results.running(call, item, call.task())
        assert (result.status, result.attempts, result.id) == (RUNNING, deliveries, enqueued.id)
        assert result.worker_ids[-1] == item.token.partition("/")[0]
        assert (result.task, result.args, result.enqueued_at) == (enqueued.task, [1], enqueued.enqueued_at)
        assert result.started_at == result.last_attempted_at <= timezone.now() + dt.timedelta(minutes=1)
        queue.fail(item, "no")


def test_the_worker_gets_the_options_of_the_call():
    task = shop.plain
    result = task.using(priority=5).enqueue(1)
    call = envelope.read(next(queues["default"].items()).payload)
    assert call.task().max_attempts is None
    assert call.task().priority == 5
    options = {"max_attempts": 3, "timeout": 5.0, "result_ttl": 0.0, "unique": True, "queue_name": "mail"}
    changed = shop.add.using(**options, backoff={"base": 5})
    read = envelope.read(json.loads(json.dumps(envelope.envelope(changed, [1], {}))))
    assert read.task() == changed
    assert uuid.UUID(result.id)


def test_the_backoff_of_a_call_that_cannot_be_imported_any_more():
    """The task is run; the queue's backoff is used."""
    payload = {
        "task": "tests.tasks.shop.add",
        "args": [],
        "kwargs": {},
        "options": {"backoff": "tests.tasks.shop.gone"},
    }
    assert envelope.read(payload).task().backoff is None
