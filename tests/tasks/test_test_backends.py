"""ImmediateBackend and DummyBackend: Django's, for tasks with our options. Django's own tests run with both, too."""

from __future__ import annotations

import django
import pytest
from asgiref.sync import async_to_sync
from django.tasks import TaskResultStatus, default_task_backend, task
from django.tasks.backends.dummy import DummyBackend as DjangoDummyBackend
from django.tasks.backends.immediate import ImmediateBackend as DjangoImmediateBackend
from django.tasks.exceptions import InvalidTask

from django_srq.tasks import DummyBackend, ImmediateBackend, SRQTask, TaskCancelled
from tests.tasks import work

pytestmark = pytest.mark.versions
OPTIONS = {
    "max_attempts": 5,
    "backoff": {"base": 2, "max": 600},
    "timeout": 30,
    "unique": True,
    "result_ttl": 60,
    "on_commit": False,
}


@pytest.fixture(params=[ImmediateBackend, DummyBackend], ids=lambda kind: kind.__name__)
def backend(request, settings):
    settings.TASKS = {"default": {"BACKEND": f"django_srq.tasks.{request.param.__name__}"}}
    work.ran.clear()
    return request.param


def test_they_are_django_s(backend):
    assert issubclass(ImmediateBackend, DjangoImmediateBackend)
    assert issubclass(DummyBackend, DjangoDummyBackend)
    assert isinstance(default_task_backend.enqueue(work.nothing, (), {}).task.get_backend(), backend)


def test_using_takes_our_options(backend):
    changed = work.add.using(**OPTIONS)
    assert (changed.max_attempts, changed.unique, changed.backoff.max) == (5, True, 600)
    assert [changed.enqueue(1).args for _ in range(2)] == [[1], [1]]


if django.VERSION >= (6, 1):

    def test_the_decorator_takes_our_options(backend):
        made = task(**OPTIONS)(work.add.func)
        assert isinstance(made, SRQTask)
        assert made.timeout == 30
        assert made.enqueue(1).args == [1]


def test_wrong_options_are_refused(backend):
    with pytest.raises(InvalidTask, match="^max_attempts must be a whole number above 0, or None, not 0"):
        work.add.using(max_attempts=0)


def test_many(backend):
    results = work.add.enqueue_many([{"a": 1}, (2, 3)])
    assert [(result.args, result.kwargs) for result in results] == [([], {"a": 1}), ([2, 3], {})]


def test_immediate_tasks_cannot_be_cancelled(settings):
    settings.TASKS = {"default": {"BACKEND": "django_srq.tasks.ImmediateBackend"}}
    result = work.add.enqueue(1)
    assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, 1)
    assert default_task_backend.cancel(result.id) is False
    assert async_to_sync(default_task_backend.acancel)(result.id) is False


def test_a_task_of_the_dummy_backend_can_be_cancelled(settings):
    settings.TASKS = {"default": {"BACKEND": "django_srq.tasks.DummyBackend"}}
    result, other = work.add.enqueue(1), work.add.enqueue(2)
    assert default_task_backend.cancel("unknown") is False
    assert default_task_backend.cancel(result.id) is True
    assert async_to_sync(default_task_backend.acancel)(result.id) is False
    result.refresh()
    other.refresh()
    assert (result.status, result.errors[0].exception_class) == (TaskResultStatus.FAILED, TaskCancelled)
    assert result.finished_at is not None
    assert other.status == TaskResultStatus.READY
