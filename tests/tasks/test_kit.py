"""The testing kit for tasks: run_all, assert_enqueued, commit."""

from __future__ import annotations

import unittest
from unittest.mock import ANY

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.tasks import TaskResultStatus, default_task_backend
from django.test import TestCase

from django_srq import ConfigurationError, InvalidArgument, queues
from django_srq.testing import PutForbidden, QueueTestMixin, assert_enqueued, commit, guard, isolated_queues, run_all
from django_srq.testing import srq_queues as srq_queues  # the fixture, imported as a user imports it
from tests.tasks import work

pytestmark = pytest.mark.versions


@pytest.fixture(autouse=True)
def configured(settings, server_url, prefix):
    settings.TASKS = {
        "default": {
            "BACKEND": "django_srq.tasks.SRQBackend",
            "QUEUES": ["default", "mail"],
            "OPTIONS": {"URL": server_url, "PREFIX": prefix + ".{alias}"},
        }
    }
    work.ran.clear()


def run(body):
    """Run a function as a test of a TestCase with the mixin."""

    class Tests(QueueTestMixin, TestCase):
        def runTest(self):
            body(self)

    result = unittest.TestResult()
    unittest.TestSuite([Tests()]).run(result)
    assert [text for _, text in [*result.errors, *result.failures]] == []
    assert result.testsRun == 1


# -- isolation


def test_queues_that_tasks_make_are_isolated(client, prefix):
    names = set()
    work.add.enqueue(0)
    for _ in range(2):
        with isolated_queues():
            work.add.enqueue(1)
            work.add.using(queue_name="mail").enqueue(2)
            assert [len(queues[alias]) for alias in queues] == [1, 1]
            keys = [str(queues[alias].keys) for alias in queues]
            assert not any(prefix in key for key in keys)
            names.update(keys)
            run_all("default")
        assert [key for name in names for key in client.scan_iter(f"{name}*", count=1000)] == []
    assert len(names) == 4
    assert len(queues["default"]) == 1


def test_the_guard_forbids_to_enqueue(settings, monkeypatch):
    monkeypatch.setattr("django_srq.queue.puts.guard", None)
    guard()
    settings.SRQ_TEST_GUARD = True
    with pytest.raises(PutForbidden):
        work.add.enqueue(1)
    with isolated_queues():
        work.add.enqueue(1)
        assert len(queues["default"]) == 1


# -- run_all


def test_run_all_runs_tasks_in_order(srq_queues):
    first, second = work.add.enqueue(1, b=2), work.aadd.enqueue(3)
    later = work.add.using(run_after=first.enqueued_at.replace(year=2100)).enqueue(9)
    assert [item.uid for item in run_all("default")] == [first.id, second.id]
    for result in (first, second, later):
        result.refresh()
    assert (first.return_value, second.return_value) == (3, 3)
    assert later.status == TaskResultStatus.READY
    assert run_all("default") == []


def test_run_all_with_a_limit(srq_queues):
    for a in range(3):
        work.add.enqueue(a)
    assert len(run_all("default", limit=2)) == 2
    assert work.ran == [(0, 0), (1, 0)]


def test_run_all_raises_the_error_of_a_task(srq_queues):
    result = work.fail_slowly.enqueue()
    with pytest.raises(work.Odd):
        run_all("default")
    result.refresh()
    assert (result.status, len(result.errors)) == (TaskResultStatus.READY, 1)


@pytest.mark.parametrize(("task", "status"), [(work.discard, "FAILED"), (work.reject, "FAILED"), (work.later, "READY")])
def test_run_all_when_a_task_ends_itself(srq_queues, task, status):
    result = task.enqueue(*([1000] if task is work.later else []))
    assert len(run_all("default")) == 1
    result.refresh()
    assert result.status == status


def test_run_all_raises_when_a_task_is_unknown(srq_queues):
    queues["default"].put({"task": "tests.tasks.work.gone", "args": [], "kwargs": {}})
    with pytest.raises(Exception, match="tests.tasks.work.gone cannot be imported here"):
        run_all("default")
    assert queues["default"].counts()["dead"] == 1


@pytest.mark.django_db
def test_tasks_run_in_the_transaction_of_the_test():
    def body(case):
        User.objects.create(username="new")
        result = work.queries.using(on_commit=False).enqueue()
        with case.assertNumQueries(1):
            run_all("default")
        result.refresh()
        case.assertIn("new", result.return_value)

    run(body)
    assert not User.objects.filter(username="new").exists()


# -- commit


@pytest.mark.django_db
def test_commit_enqueues():
    def body(case):
        result = work.add.enqueue(1)
        case.assertEqual(len(queues["default"]), 0)
        uid = queues["mail"].put_on_commit({"task": "tests.tasks.work.add", "args": [2], "kwargs": {}})
        commit()
        case.assertEqual([item.uid for item in queues["default"].items()], [result.id])
        case.assertEqual([item.uid for item in queues["mail"].items()], [uid])
        commit()  # nothing is left
        case.assertEqual(len(queues["default"]), 1)

    run(body)


@pytest.mark.django_db
def test_commit_enqueues_nothing_that_was_rolled_back():
    def body(case):
        with pytest.raises(LookupError), transaction.atomic():
            work.add.enqueue(1)
            raise LookupError
        with transaction.atomic():
            work.add.enqueue(2)
        commit()
        (result,) = case.assert_enqueued(work.add, count=1)
        case.assertEqual(result.args, [2])

    run(body)


@pytest.mark.django_db
def test_commit_within_a_transaction_of_the_code():
    def body(case):
        with transaction.atomic():
            work.add.enqueue(1)
            with pytest.raises(
                InvalidArgument, match="^commit: a transaction of the code under test is open on the da"
            ):
                commit()
        case.assert_enqueued(work.add, count=0)

    run(body)


@pytest.mark.django_db
def test_commit_runs_hooks_of_hooks_and_logs_errors_of_robust_ones(caplog):
    def fail():
        raise LookupError

    def body(case):
        transaction.on_commit(lambda: work.add.enqueue(1))
        transaction.on_commit(fail, robust=True)
        commit()
        case.assert_enqueued(work.add, args=[1])
        transaction.on_commit(fail)
        with pytest.raises(LookupError):
            commit()

    run(body)
    assert "a hook failed after the commit: <function" in caplog.text


@pytest.mark.django_db
def test_the_fixture_of_pytest_django():
    with isolated_queues():
        work.add.enqueue(1)
        assert len(queues["default"]) == 0
        commit()
        assert len(queues["default"]) == 1


# -- assert_enqueued


def failure(*args, **options):
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(*args, **options)
    return str(caught.value)


def test_assert_enqueued_returns_the_results(srq_queues):
    first = work.add.enqueue(1, b={"x": (2,)})
    second = work.add.using(queue_name="mail", priority=5).enqueue(1)
    third = work.add.using(run_after=first.enqueued_at.replace(year=2100)).enqueue(3)
    work.nothing.enqueue()
    assert {result.id for result in assert_enqueued(work.add, count=3)} == {first.id, second.id, third.id}
    assert assert_enqueued(work.add, args=[1], kwargs={"b": {"x": [2]}}) == [first]
    assert assert_enqueued(work.add, args=(1,), kwargs={}) == [second]
    assert assert_enqueued(work.add, args=(1,), kwargs={"b": ANY}) == [first]
    assert assert_enqueued(work.add.using(priority=9), args=[3])[0].task.run_after.year == 2100
    assert assert_enqueued(work.fail, count=0) == []
    assert len(queues["default"]) == 2  # none was taken


def test_assert_enqueued_looks_at_one_backend(settings, server_url, prefix):
    options = {"URL": server_url, "PREFIX": prefix + ".{alias}"}
    settings.TASKS = {
        "default": {"BACKEND": "django_srq.tasks.SRQBackend", "QUEUES": ["default"], "OPTIONS": options},
        "other": {"BACKEND": "django_srq.tasks.SRQBackend", "QUEUES": ["mail"], "OPTIONS": options},
    }
    of_other = work.add.using(backend="other", queue_name="mail")
    with isolated_queues():
        first, second = work.add.enqueue(1), of_other.enqueue(1)
        assert assert_enqueued(work.add) == [first]
        assert assert_enqueued(of_other) == [second]


def test_assert_enqueued_says_what_waits(srq_queues):
    assert failure(work.add) == "tests.tasks.work.add waits 0 times, not at least once. No task waits."
    result = work.add.enqueue(1, b="x" * 500)
    said = failure(work.add, args=[2], kwargs={}, count=3)
    assert said.startswith("tests.tasks.work.add args=[2] kwargs={} waits 0 times, not 3 times. These tasks wait:\n")
    assert f"\n  {result.id} tests.tasks.work.add(1, b='xxx" in said
    assert said.endswith("… (507 characters))")
    for _ in range(30):
        work.nothing.enqueue()
    assert failure(work.add, count=0).endswith("\n  and 11 more")


@pytest.mark.django_db
def test_assert_enqueued_reminds_of_the_commit():
    def body(case):
        work.add.enqueue(1)
        case.assertIn(
            "Some tasks wait for a commit, which never comes in a TestCase: call commit() before. No task",
            failure(work.add),
        )

    run(body)


def test_assert_enqueued_with_the_dummy_backend(settings):
    settings.TASKS = {"default": {"BACKEND": "django_srq.tasks.DummyBackend"}}
    result = work.add.enqueue(1)
    assert assert_enqueued(work.add, args=[1], count=1) == [result]
    default_task_backend.cancel(result.id)
    assert failure(work.add).endswith("No task waits.")


def test_assert_enqueued_with_the_immediate_backend(settings):
    settings.TASKS = {"default": {"BACKEND": "django_srq.tasks.ImmediateBackend"}}
    work.add.enqueue(1)
    with pytest.raises(ConfigurationError, match="^assert_enqueued: .*ImmediateBackend keeps no tasks"):
        assert_enqueued(work.add)


def test_assert_enqueued_reads_only_the_tasks_of_its_backend_that_can_be_imported(settings, srq_queues):
    (first,) = settings.TASKS.values()
    settings.TASKS = {"default": {**first, "QUEUES": ["default"]}, "other": {**first, "QUEUES": ["mail"]}}
    elsewhere = work.add.using(backend="other", queue_name="mail").enqueue(1)
    queues["default"].put({"task": "tests.tasks.work.gone", "args": [], "kwargs": {}})
    here = work.add.enqueue(1)
    assert assert_enqueued(work.add) == [here]
    assert assert_enqueued(work.add.using(backend="other", queue_name="mail")) == [elsewhere]


def test_assert_enqueued_compares_arguments_as_json_has_them(srq_queues):
    result = work.add.enqueue((1, 2), b={"a": (3,)})
    assert assert_enqueued(work.add, args=((1, 2),), kwargs={"b": {"a": (3,)}}) == [result]


@pytest.mark.parametrize("wrong", [-1, True, "1", 1.5])
def test_assert_enqueued_with_a_wrong_count(wrong):
    with pytest.raises(InvalidArgument, match=f"^assert_enqueued: count is .*, or None; not {wrong!r}$"):
        assert_enqueued(work.add, count=wrong)


@pytest.mark.parametrize("wrong", ["tests.tasks.work.add", None, work.add.func])
def test_assert_enqueued_takes_a_task(wrong):
    with pytest.raises(InvalidArgument, match="^assert_enqueued takes a task, not "):
        assert_enqueued(wrong)
