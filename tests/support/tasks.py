"""Tasks of the tests."""

from __future__ import annotations

from typing import Any

from django.tasks import task

from django_srq import queues
from django_srq.tasks import SRQTask
from django_srq.tasks.task import as_srq


def quick(exception: BaseException, result: Any) -> float | None:
    return 0.01


@task
def add(a: int, b: int = 0) -> int:
    return a + b


@task
async def aadd(a: int, b: int = 0) -> int:
    return a + b


@task(takes_context=True)
def told(context: Any, *args: Any) -> int:
    return context.attempt


def plain(a: int) -> int:
    return a


class Holder:
    @staticmethod
    def method(a: int) -> int:
        return a
