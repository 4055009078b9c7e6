"""Decodes the reply to a claim that a test made by itself."""

from __future__ import annotations

from collections.abc import Iterable

from django_srq import Item, SafeRedisQueue
from django_srq.operations import StoredItem
from django_srq.queue import gets
from django_srq.transport.sansio import run


def decoded(queue: SafeRedisQueue, found: Iterable[StoredItem]) -> list[Item]:
    """The claimed items that can be decoded; the queue sets the others aside."""
    return run(gets.decoded(queue, found))
