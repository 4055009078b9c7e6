from __future__ import annotations

from typing import Any

from django_srq.management.bulk import EachQueueCommand, Results
from django_srq.management.report import Row
from django_srq.registry import Queue


class Command(EachQueueCommand):
    help = "End the pause of queues and wake their consumers."
    examples = ("orders", "--all")

    def handle(self, *, queues: list[str], all_queues: bool, format: str, **_: Any) -> None:
        def resume(queue: Queue, row: Row) -> None:
            row.update(paused=False, was_paused=queue.resume())

        results = Results()
        self.on_each(self.chosen(queues, all_queues), resume, results)
        self.finish(results, format)
