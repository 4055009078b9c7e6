"""Django's ImmediateBackend for tasks with the options of this package."""

from __future__ import annotations

from django.tasks.backends import immediate

from django_srq.tasks.task import SRQTask


class ImmediateBackend(immediate.ImmediateBackend):
    """For development and tests: ``enqueue`` runs the task once, and returns its result.

    Options of the task are accepted. None has an effect: there is no second attempt, and no time limit.
    """

    task_class = SRQTask

    def cancel(self, result_id: str) -> bool:
        """False: no task waits."""
        return False

    async def acancel(self, result_id: str) -> bool:
        return False
