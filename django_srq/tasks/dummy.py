"""Django's DummyBackend for tasks with the options of this package."""

from __future__ import annotations

from django.tasks import TaskResultStatus
from django.tasks.backends import dummy
from django.tasks.base import TaskError
from django.utils import timezone

from django_srq.tasks.exceptions import TaskCancelled
from django_srq.tasks.task import SRQTask


class DummyBackend(dummy.DummyBackend):
    """For tests: no task is run. ``results`` has those that were enqueued by this thread; ``clear`` empties it.

    Options of the task are accepted. None has an effect: also a ``unique`` task is enqueued each time.
    """

    task_class = SRQTask

    def cancel(self, result_id: str) -> bool:
        """Make the result of a task that waits FAILED, with TaskCancelled. Returns whether it did wait."""
        for result in self.results:
            if result.id == result_id and result.status == TaskResultStatus.READY:
                path = f"{TaskCancelled.__module__}.{TaskCancelled.__qualname__}"
                result.errors.append(TaskError(exception_class_path=path, traceback=""))
                object.__setattr__(result, "finished_at", timezone.now())
                object.__setattr__(result, "status", TaskResultStatus.FAILED)
                return True
        return False

    async def acancel(self, result_id: str) -> bool:
        return self.cancel(result_id)
