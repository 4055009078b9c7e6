"""For the tests of projects: each test gets queues of its own, and handles ready items in its own process.

unittest: ``class OrderTests(QueueTestMixin, TestCase)``. pytest: ``pytest_plugins = ["django_srq.testing"]`` in the
root ``conftest.py``, and the fixture ``srq_queues``. Both need a server: the one that the settings name.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.test.utils import override_settings

from django_srq import conf, queues
from django_srq.consumer import adapt
from django_srq.exceptions import ConfigurationError, InvalidArgument, shown
from django_srq.operations import Command, Keys, key_types
from django_srq.queue.item import Item
from django_srq.registry import QueueHandler
from django_srq.values import COUNTS_FROM_0

if TYPE_CHECKING:
    from unittest import TestCase as _Case
else:
    _Case = object


@contextmanager
def isolated_queues() -> Iterator[QueueHandler]:
    """Give every queue of the settings a throw-away prefix on the same server; its keys are deleted at the end."""
    written: Mapping[str, Mapping[str, Any]] = getattr(settings, "SRQ_QUEUES", {})
    isolated = {alias: {**options, "PREFIX": f"test-{uuid.uuid4().hex[:12]}"} for alias, options in written.items()}
    with override_settings(SRQ_QUEUES=isolated):
        used = {alias: queues[alias] for alias in conf.load().queues}
        try:
            yield queues
        finally:
            for queue in used.values():
                queue.link.call(_delete(queue.keys), queue=queue.alias)


def _delete(keys: Keys) -> Command[Any]:
    return Command((b"DEL", *(keys[key].encode() for key in key_types())), lambda reply: reply)


def run_all(alias: str, *, limit: int | None = None) -> list[Item]:
    """Handle the ready items with the queue's HANDLER, in this thread and in order; return the items that were handled.

    Delayed items stay. An error of the handler fails the item, and is raised here. ``limit``: most items to handle.
    """
    if limit is not None and limit not in COUNTS_FROM_0:
        raise InvalidArgument(f"run_all: limit is {COUNTS_FROM_0.name}, or None; not {shown(limit)}")
    queue = queues[alias]
    handler = queue.config.load_handler()
    if handler is None:
        raise ConfigurationError(f"SRQ_QUEUES[{alias!r}] has no HANDLER to run.")
    batch = queue.config.handler_batch > 1  # here in lists of one item
    handle = adapt(handler, batch=batch)
    handled: list[Item] = []
    while limit is None or len(handled) < limit:
        with queue.processing(timeout=-1) as item:
            if not item:
                break
            if not batch:
                handle(item)
            elif errors := handle([item]):
                raise errors[0]
            handled.append(item)
    return handled


class QueueTestMixin(_Case):
    """For a Django ``TestCase``: each test has empty queues of its own, from ``setUp`` on.

    In a ``TestCase`` nothing is committed: put_on_commit puts at the end of ``captureOnCommitCallbacks(execute=True)``.
    """

    def setUp(self) -> None:
        super().setUp()
        isolation = isolated_queues()
        isolation.__enter__()
        self.addCleanup(isolation.__exit__, None, None, None)


try:
    import pytest
except ImportError:  # the mixin needs no pytest
    pass
else:

    @pytest.fixture
    def srq_queues() -> Iterator[QueueHandler]:
        """``django_srq.queues``, each queue empty and the test's own."""
        with isolated_queues() as handler:
            yield handler
