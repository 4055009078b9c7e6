"""Django's DummyBackend for projects whose tasks have our fields: for tests."""

from __future__ import annotations

from django.tasks import TaskResultStatus
from django.tasks.backends import dummy
from django.utils import timezone

from django_srq.tasks.in_memory import InMemory


class DummyBackend(InMemory, dummy.DummyBackend):
    """Run no task; ``results`` has those that were enqueued in this thread."""

    def cancel(self, result_id: str) -> bool:
        """Cancel a task that was not cancelled before. Returns whether there is such a task."""
        ...
