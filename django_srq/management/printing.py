"""The handler of ``srq_consume`` for queues without one: it prints the items."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import OutputWrapper

from django_srq.consumer import StopConsuming
from django_srq.consumer.worker.events import task_name
from django_srq.queue.envelope import is_envelope
from django_srq.queue.item import Item


class Printer:
    def __init__(self, output: OutputWrapper) -> None:
        self._output = output

    def print(self, item: Item) -> None:
        """Print an item as ``uid payload``. Raises StopConsuming if the output did not take it, so it is not acked.

        It also raises this for a task: printed and acked, it would never run.
        """
        if is_envelope(item.payload):
            raise StopConsuming(
                f"Item {item.uid} is a task, {task_name(item.payload)}. TASKS names no backend for its queue, so it "
                "would be printed and lost. It stays in the queue: use the settings of the project that enqueued it."
            )
        try:
            line = f"{item.uid} {_text(item.payload)}"
            self._output.write(escaped(line) if self._output.isatty() else line)
            self._output.flush()
        except OSError as error:
            text = f"{error.strerror or error}. The item that could not be printed stays in the queue."
            raise StopConsuming(text) from None


def _text(payload: Any) -> str:
    if isinstance(payload, bytes):
        return payload.decode(errors="backslashreplace")
    return payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False, default=str)


def escaped(text: str) -> str:
    """The text on one line, without control characters: a payload must not control the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
