"""Django's ImmediateBackend for projects whose tasks have our fields: for tests and development."""

from __future__ import annotations

from django.tasks.backends import immediate

from django_srq.tasks.in_memory import InMemory


class ImmediateBackend(InMemory, immediate.ImmediateBackend):
    """Run each task once, at once, in the thread that enqueues it; its result is known to the caller only."""

    def cancel(self, result_id: str) -> bool:
        """False: no task waits, as each one ran when it was enqueued."""
        return False
