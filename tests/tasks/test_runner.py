"""How the consumer runs tasks: what becomes of each, which signals are sent, what is kept."""

from __future__ import annotations

import json
import logging
import sys
import traceback

import pytest
from django.tasks import TaskResultStatus
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_finished, task_started

from django_srq import Discard, queues
from django_srq.consumer.runner import Outcome
from django_srq.tasks import Backoff, SRQBackend, exceptions
from django_srq.tasks.runner import TaskRunner
from tests.tasks import work
from tests.tasks.consuming import consume

pytestmark = pytest.mark.versions

READY, RUNNING, FAILED, SUCCESSFUL = (
    TaskResultStatus.READY,
    TaskResultStatus.RUNNING,
    TaskResultStatus.FAILED,
    TaskResultStatus.SUCCESSFUL,
)


@pytest.fixture(autouse=True)
def configured(settings, server_url, prefix):
    def configure(**options):
        settings.TASKS = {
            "default": {
                "BACKEND": "django_srq.tasks.SRQBackend",
                "OPTIONS": {
                    "URL": server_url,
                    "PREFIX": prefix + ".{alias}",
                    "BACKOFF": {"base": 500},
                    "MAX_DELIVERIES": 2,
                    **options,
                },
            }
        }

    configure()
    work.ran.clear()
    work.asked.clear()
    return configure


@pytest.fixture
def sent():
    """The signals: name, status, attempts, and the error that was being handled."""
    received = []

    def receive(signal, sender, task_result, **_):
        name = "started" if signal is task_started else "finished"
        received.append((name, sender, task_result, task_result.status, task_result.attempts, sys.exception()))

    for signal in (task_started, task_finished):
        signal.connect(receive, weak=False)
    yield received
    for signal in (task_started, task_finished):
        signal.disconnect(receive)


def ended(task, *args, **kwargs):
    """Enqueue a task and have it run; its result."""
    result = task.enqueue(*args, **kwargs)
    consume()
    result.refresh()
    return result


def paths(result):
    return [error.exception_class_path for error in result.errors]


# -- the end of an attempt


def test_the_value_is_kept():
    result = ended(work.add, 1, b=2)
    assert (result.status, result.return_value, result.attempts, result.errors) == (SUCCESSFUL, 3, 1, [])
    assert queues["default"].counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0}
    assert ended(work.nothing).return_value is None
    assert ended(work.give, "tuple").return_value == [1, {"two": [3]}]
    assert ended(work.give, "bytes").return_value == "text"  # as Django's backends do it


@pytest.mark.parametrize("concurrency", [1, 4])
def test_async_tasks(concurrency):
    """Also one whose decorator hides that it is one, and beside others that are not."""
    results = [work.aadd.enqueue(1, b=2), work.hidden.enqueue(4), work.add.enqueue(5)]
    consume(concurrency=concurrency)
    for result in results:
        result.refresh()
    assert [result.return_value for result in results] == [3, 4, 5]


def test_a_failed_attempt_is_repeated_until_none_is_left():
    result = ended(work.fail, "no")
    assert (result.status, result.attempts, paths(result)) == (FAILED, 2, ["tests.tasks.work.Odd"] * 2)
    assert work.ran == ["no", "no"]
    assert all(
        error.traceback.endswith("Odd: no\n") and "raise Odd(text)" in error.traceback for error in result.errors
    )
    assert result.errors[0].exception_class is work.Odd
    assert queues["default"].counts()["dead"] == 1


def test_max_attempts_of_the_task_hold_instead_of_those_of_the_queue():
    assert ended(work.fail.using(max_attempts=1)).attempts == 1
    assert ended(work.fail.using(max_attempts=4)).attempts == 4


def test_a_task_whose_consumer_died_in_the_last_attempt_is_not_run():
    """The server counts the deliveries, and knows the limit of the queue only."""
    result = work.add.using(max_attempts=1).enqueue(1)
    queue = queues["default"]
    queue.release(item := queue.get(-1))
    item = queue.get(-1)
    queue.fail(item)
    consume()
    result.refresh()
    assert (result.status, work.ran) == (FAILED, [])
    assert "the last of 1 attempts was cut short" in result.errors[-1].traceback
    assert result.errors[-1].exception_class is exceptions.Exhausted
    assert result.attempts == 1


def test_discard_is_failed_at_once_with_its_result_and_not_dead():
    result = ended(work.discard)
    assert (result.status, result.attempts, paths(result)) == (FAILED, 1, ["django_srq.exceptions.Discard"])
    assert "not wanted" in result.errors[0].traceback
    assert queues["default"].counts()["dead"] == 0


def test_reject_is_dead_at_once():
    result = ended(work.reject)
    assert (result.status, result.attempts, paths(result)) == (FAILED, 1, ["django_srq.exceptions.Reject"])
    assert queues["default"].counts()["dead"] == 1


def test_retry_later_counts_as_an_attempt():
    result = ended(work.later)
    assert (result.status, result.attempts, work.ran) == (FAILED, 2, ["later", "later"])
    delayed = ended(work.later, 1000)
    assert (delayed.status, delayed.attempts, queues["default"].counts()["delayed"]) == (READY, 1, 1)


# -- values that cannot be kept


@pytest.mark.parametrize(
    ("kind", "path", "text"),
    [
        ("object", "builtins.TypeError", "Unsupported type"),
        ("function", "builtins.TypeError", "Unsupported type"),
        ("nan", "builtins.ValueError", "not JSON compliant"),
        ("large", "django_srq.exceptions.PayloadTooLarge", "the limit is 1000; return a reference to it instead"),
    ],
)
def test_a_value_that_cannot_be_kept_is_a_failed_attempt(configured, kind, path, text):
    configured(MAX_PAYLOAD_BYTES=1000)
    result = ended(work.give, kind)
    assert (result.status, result.attempts, paths(result)) == (FAILED, 2, [path] * 2)
    assert text in result.errors[0].traceback
    assert result._return_value is None


def test_a_generator_is_a_failed_attempt():
    result = ended(work.produce)
    assert (result.status, paths(result)) == (FAILED, ["builtins.TypeError"] * 2)


def test_the_limit_of_values_counts_their_bytes(configured):
    configured(MAX_PAYLOAD_BYTES=3000)
    assert ended(work.give, "large").status == SUCCESSFUL


# -- backoff


def delay_of(result):
    """Seconds until the next attempt."""
    (item,) = queues["default"].items("delayed")
    failed_at = item.delivery.error["time"] / 1000
    assert item.uid == result.id
    return item.delivery.when.timestamp() - failed_at


def test_the_backoff_of_the_queue():
    assert 249 <= delay_of(ended(work.fail_slowly)) <= 501


@pytest.mark.parametrize("backoff", [{"base": 1000}, Backoff(base=1000)])
def test_the_backoff_of_the_task(backoff):
    result = ended(work.fail.using(backoff=backoff))
    assert result.status == READY
    assert 499 <= delay_of(result) <= 1001


def test_a_function_says_how_long_to_wait():
    ended(work.fail.using(backoff=work.at_once, max_attempts=3), "why")
    assert [str(error) for error, _ in work.asked] == ["why"] * 3
    assert [result.attempts for _, result in work.asked] == [1, 2, 3]


def test_a_function_may_want_no_further_attempt():
    result = ended(work.fail.using(backoff=work.no_more, max_attempts=3))
    assert (result.status, result.attempts, paths(result)) == (FAILED, 1, ["tests.tasks.work.Odd"])


def test_a_function_is_not_asked_about_a_timeout_before_the_run():
    ended(work.fail.using(backoff=work.at_once, max_attempts=1, timeout=30), "why")
    assert [str(error) for error, _ in work.asked] == ["why"]


@pytest.mark.parametrize("backoff", [work.wrong, work.broken])
def test_a_function_that_gives_no_number(backoff, caplog):
    """The default backoff decides: 0.5 to 1 s."""
    result = ended(work.fail.using(backoff=backoff))
    assert result.status == READY
    assert 0.4 <= delay_of(result) <= 1.1
    assert "cannot compute the delay of a failed item" in caplog.text


# -- what the consumer is told


def begun(task, *args):
    """A task that a consumer has just taken, with its runner."""
    task.enqueue(*args)
    runner, item = TaskRunner(queues["default"]), queues["default"].get(-1)
    runner.begin(item)
    return runner, item


def test_outcomes_say_whether_a_supervisor_knows_them():
    """A supervisor acks a task that returned None, with the stub; it has any other task run again."""
    runner, item = begun(work.add, 1)
    assert runner.outcome(item, None, 0.1) == Outcome(runner.stub(), valued=False)
    assert runner.outcome(item, 0, 0.1).valued is True
    assert runner.discarded(item, Discard("")).valued is True
    runner, item = begun(work.add.using(result_ttl=0), 1)
    assert runner.outcome(item, 5, 0.1) == runner.discarded(item, Discard("")) == Outcome()


def test_nothing_is_told_of_a_task_that_was_settled_before(sent):
    runner, item = begun(work.add, 1)
    runner.acked(item, runner.outcome(item, 5, 0.1), False)
    runner.failed(item, LookupError(), None)
    runner.failed(item, LookupError(), "ready")
    assert sent == []
    runner.acked(item, runner.outcome(item, 5, 0.1), True)
    assert [name for name, *_ in sent] == ["finished"]


def test_the_time_limit_and_the_kind_of_a_task():
    runner, item = begun(work.add.using(timeout=7.5), 1)
    assert (runner.time_limit(item), runner.is_asynchronous(item)) == (7.5, False)
    runner, item = begun(work.aadd, 1)
    assert (runner.time_limit(item), runner.is_asynchronous(item)) == (None, True)


# -- results are kept as long as the task wants


def test_result_ttl_of_the_task(client, prefix):
    kept = ended(work.add.using(result_ttl=5000), 1)
    default = ended(work.add, 1)
    stored = client.hgetall(f"{queues['default'].keys}:results")
    times = {uid.decode(): json.loads(result)["ttl"] for uid, result in stored.items()}
    assert times == {kept.id: 5000 * 1000, default.id: 86400 * 1000}
    none = work.add.using(result_ttl=0).enqueue(1)
    consume()
    with pytest.raises(TaskResultDoesNotExist):
        none.refresh()


def test_no_results_are_kept(configured):
    configured(RESULT_TTL=0)
    result = work.add.enqueue(1)
    consume()
    with pytest.raises(TaskResultDoesNotExist):
        result.refresh()
    assert work.ran == [(1, 0)]


# -- tasks that cannot be run


def test_an_unknown_task_is_dead_at_once_with_the_sentence_that_helps(sent):
    queue = queues["default"]
    uid = queue.put({"task": "tests.tasks.work.renamed", "args": [], "kwargs": {}})
    consume()
    (item,) = queue.items("dead")
    assert (item.uid, item.deliveries) == (uid, 1)
    message = item.error["message"]
    assert message.startswith("tests.tasks.work.renamed cannot be imported here")
    assert message.endswith("was it renamed? Keep an alias, or requeue after the next deployment")
    assert sent == []


@pytest.mark.parametrize(
    "payload", [None, {"task": "tests.tasks.work.ran", "args": [], "kwargs": {}}, {"order": 17}, 5]
)
def test_what_is_no_task_is_dead_at_once(payload):
    queues["default"].put(payload)
    consume()
    assert queues["default"].counts()["dead"] == 1


def test_an_argument_that_the_task_does_not_have():
    result = work.add.enqueue(1, c=3)
    consume()
    result.refresh()
    assert (result.status, paths(result)) == (FAILED, ["builtins.TypeError"] * 2)


def test_the_backend_of_the_call_is_not_configured_here():
    queues["default"].put({"task": "tests.tasks.work.add", "args": [1], "kwargs": {}, "backend": "gone"})
    consume()
    (item,) = queues["default"].items("dead")
    assert "cannot be run here: The connection 'gone' doesn't exist" in item.error["message"]


# -- the context


def test_the_context():
    result = work.about.enqueue(7)
    consume()
    result.refresh()
    assert result.return_value == [1, result.id, "RUNNING", [7]]
    (context,) = work.ran
    assert context.task_result.task.func is work.about.func
    assert context.task_result.worker_ids == result.worker_ids


# -- signals


def test_the_signals_of_a_task_that_succeeds(sent):
    result = ended(work.add, 1, b=2)
    (started, began), (finished, end) = ((name, rest) for name, *rest in sent)
    assert (started, finished) == ("started", "finished")
    assert began[0] is end[0] is SRQBackend
    assert began[1] is end[1]  # one result for the whole attempt
    assert began[1].id == result.id
    assert [began[2], end[2]] == [RUNNING, SUCCESSFUL]
    assert [began[3], end[3]] == [1, 1]
    assert [began[4], end[4]] == [None, None]
    assert (end[1].return_value, end[1].finished_at is not None) == (3, True)


def test_a_retry_sends_no_task_finished(sent):
    result = ended(work.fail, "no")
    assert [(name, *rest[1:3]) for name, _, *rest in sent] == [
        ("started", RUNNING, 1),
        ("started", RUNNING, 2),
        ("finished", FAILED, 2),
    ]
    *_, (_, _, last, _, _, error) = sent
    assert isinstance(error, work.Odd)
    frames = traceback.extract_tb(error.__traceback__)
    assert frames[-1].name == "fail"
    assert "failed" not in "".join(frame.name for frame in frames)  # none of the runner's own
    assert (last.id, last.errors, len(last.errors)) == (result.id, result.errors, 2)


@pytest.mark.parametrize(("task", "kind"), [(work.discard, "Discard"), (work.reject, "Reject")])
def test_the_signals_of_a_task_that_ends_itself(sent, task, kind):
    ended(task)
    assert [(name, status) for name, _, _, status, _, _ in sent] == [("started", RUNNING), ("finished", FAILED)]
    assert type(sent[-1][-1]).__name__ == kind


def test_errors_of_receivers_change_nothing(caplog):
    def broken(**_):
        raise LookupError("of a receiver")

    for signal in (task_started, task_finished):
        signal.connect(broken)
    try:
        assert ended(work.add, 1).status == SUCCESSFUL
        assert ended(work.fail, "no").status == FAILED
    finally:
        for signal in (task_started, task_finished):
            signal.disconnect(broken)


def test_the_log_of_django(sent, caplog):
    """It shows of an error what the consumer's own log shows; receivers get the error itself."""
    caplog.set_level(logging.DEBUG, "django.tasks")
    result = ended(work.fail.using(max_attempts=1), "password=geheim")
    records = [record for record in caplog.records if record.name == "django.tasks"]
    assert [record.levelname for record in records] == ["DEBUG", "INFO", "ERROR"]
    assert result.id in records[-1].getMessage()
    assert "in fail\n" in caplog.text
    assert caplog.text.count("tests.tasks.work.Odd: password=") == 2
    assert "geheim" not in caplog.text
    kind, _, frames = records[-1].exc_info
    assert (kind, frames.tb_frame.f_locals) == (work.Odd, {})
    assert (type(sent[-1][-1]), str(sent[-1][-1])) == (work.Odd, "password=geheim")


def test_without_log_messages_no_message_gets_into_the_log_of_django(configured, caplog):
    configured(LOG_MESSAGES=False)
    ended(work.fail.using(max_attempts=1), "geheim")
    assert "in fail\n" in caplog.text
    assert "geheim" not in caplog.text


# -- what the server keeps of the attempts


def test_the_errors_of_ten_attempts_are_kept():
    result = ended(work.fail.using(max_attempts=12), "no")
    assert (result.status, result.attempts, len(result.errors)) == (FAILED, 12, 10)
    assert len(json.dumps([error.traceback for error in result.errors])) > 1000
