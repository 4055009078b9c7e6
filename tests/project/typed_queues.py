"""What type checkers know of the queues. mypy checks this file with the package (``make lint``); nothing runs it.

An ignored error that mypy does not find is an error, too.
"""

from __future__ import annotations

from typing import assert_type

from django_srq import Item, default_queue, queues
from django_srq.registry import Queue


async def known_types() -> None:
    assert_type(default_queue, Queue)
    assert_type(queues["orders"], Queue)
    assert_type(default_queue.put({"order": 17}), str)
    assert_type(default_queue.put_on_commit({"order": 17}), str)
    assert_type(default_queue.get(-1), Item)
    assert_type(await default_queue.aput({"order": 17}), str)


def mistakes() -> None:
    default_queue.put(17, rank=5)  # type: ignore[call-arg]
    default_queue.fail("uid", delay="soon")  # type: ignore[arg-type]
    default_queue.insert(17)  # type: ignore[attr-defined]
