"""SRQBackend with the few things that Django's tests expect of the backends in whose places it is."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async

from django_srq import queues
from django_srq.tasks import SRQBackend
from tests.tasks.consuming import consume


class Queueing(SRQBackend):
    """In the place of DummyBackend: its ``results`` are those of the tasks that wait in the server."""

    @property
    def results(self) -> list[Any]:
        return [self.get_result(item.uid) for alias in queues for item in queues[alias].items("ready")]

    def clear(self) -> None:
        for alias in queues:
            queues[alias].purge()


class Running(SRQBackend):
    """In the place of ImmediateBackend: a consumer in this process runs each task before ``enqueue`` returns."""

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        result = super().enqueue(task, args, kwargs)
        consume(task.queue_name)
        result.refresh()
        return result

    async def aenqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        return await sync_to_async(self.enqueue)(task, args, kwargs)
