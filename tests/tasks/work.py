"""Tasks for the tests of how tasks are run."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from django.db import connection
from django.tasks import TaskContext, TaskResult

from django_srq import Discard, Reject, RetryLater
from django_srq.tasks import Backoff, SRQTask

AT_ONCE = Backoff(base=0)
ran: list[Any] = []  # what the tasks noted


class Odd(Exception):
    """An error of a project."""


def task(**options: Any) -> Any:
    """As the decorator of Django 6.1, which takes options, on Django 6.0 too."""
    fields = {"priority": 0, "queue_name": "default", "backend": "default", "run_after": None, **options}
    return lambda function: SRQTask(func=function, **fields)


@task(backoff=AT_ONCE)
def add(a: int, b: int = 0) -> int:
    ran.append((a, b))
    return a + b


@task()
async def aadd(a: int, b: int = 0) -> int:
    await asyncio.sleep(0)
    return a + b


def _hiding(function: Any) -> Any:
    @functools.wraps(function)
    def hidden(*args: Any) -> Any:
        return function(*args)

    return hidden


@task()
@_hiding
async def hidden(a: int) -> int:
    return a


@task()
def nothing() -> None:
    return None


@task(backoff=AT_ONCE)
def fail(text: str = "no") -> None:
    ran.append(text)
    raise Odd(text)


@task()
def fail_slowly() -> None:
    raise Odd


@task()
def discard() -> None:
    raise Discard("not wanted")


@task(backoff=AT_ONCE)
def reject() -> None:
    raise Reject("will never work")


@task()
def later(seconds: float = 0) -> None:
    ran.append("later")
    raise RetryLater(seconds, "not yet")


@task(backoff=AT_ONCE)
def give(kind: str) -> Any:
    values: dict[str, Any] = {
        "nan": float("nan"),
        "object": object(),
        "function": give,
        "large": "x" * 2_000,
        "tuple": (1, {"two": (3,)}),
        "bytes": b"text",
    }
    return values[kind]


@task(backoff=AT_ONCE)
def produce() -> Any:
    yield 1


@task(takes_context=True)
def about(context: TaskContext, *args: int) -> list[Any]:
    result = context.task_result
    ran.append(context)
    return [context.attempt, result.id, result.status, list(args)]


@task()
def queries() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT username FROM auth_user")
        return str(cursor.fetchall())


asked: list[tuple[BaseException, TaskResult]] = []


def at_once(error: BaseException, result: TaskResult) -> float:
    asked.append((error, result))
    return 0


def no_more(error: BaseException, result: TaskResult) -> None:
    asked.append((error, result))


def wrong(error: BaseException, result: TaskResult) -> Any:
    return "soon"


def broken(error: BaseException, result: TaskResult) -> Any:
    raise ZeroDivisionError
