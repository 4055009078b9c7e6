"""Tasks of a project, for the tests of the backend."""

from __future__ import annotations

from typing import Any

from django.tasks import TaskContext, TaskResult, task

from django_srq.tasks import SRQTask


@task
def plain(*args: Any, **kwargs: Any) -> None:
    """Decorated while another backend is configured, so that it has none of the options of this package."""


def add(a: int, b: int = 0) -> int:
    return a + b


add = SRQTask(func=add)  # type: ignore[assignment]


async def aadd(a: int, b: int = 0) -> int:
    return a + b


aadd = SRQTask(func=aadd)  # type: ignore[assignment]


def attempt(context: TaskContext, *args: Any) -> int:
    return context.attempt


attempt = SRQTask(func=attempt, takes_context=True)  # type: ignore[assignment]


def renamed(a: int) -> int:
    return a


under_another_name = SRQTask(func=renamed)


def soon(error: BaseException, result: TaskResult) -> float:
    return 0.1


def hidden(a: int) -> int:
    return a


class Holder:
    @staticmethod
    def method(a: int) -> int:
        return a


class Odd(Exception):
    """An error of the project."""


def at_once(error: BaseException, result: TaskResult) -> float:
    return 0


def fail(text: str = "no") -> None:
    raise Odd(text)


fail = SRQTask(func=fail, backoff=at_once)  # type: ignore[assignment]


def echo(*args: Any) -> Any:
    return list(args)


echo = SRQTask(func=echo)  # type: ignore[assignment]
