"""The synchronous names over the asynchronous API, so that the same tests run over both APIs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django_srq import Item, SafeRedisQueue

ALONE = {"prepare", "claim", "send_puts", "push", "pop"}  # internal, or deprecated: no asynchronous twin
PUBLIC = {name for name, member in vars(SafeRedisQueue).items() if name[0] != "_" and inspect.isfunction(member)}
TWINS = {name: f"a{name}" for name in PUBLIC if f"a{name}" in PUBLIC}


class Asynchronous(SafeRedisQueue):
    """A queue whose methods call their asynchronous twins, each in an event loop of its own."""

    def items(self, state: str = "ready") -> Iterator[Item]:
        async def collected() -> list[Item]:
            return [item async for item in self.aitems(state)]

        yield from asyncio.run(collected())

    def consume(self, timeout: float = 0) -> Iterator[Item]:
        with asyncio.Runner() as runner:
            items = self.aconsume(timeout)
            while item := runner.run(anext(items, None)):
                yield item

    @contextmanager
    def processing(self, timeout: float = 0) -> Iterator[Item]:
        with asyncio.Runner() as runner:
            block = self.aprocessing(timeout)
            item = runner.run(block.__aenter__())
            try:
                yield item
            except BaseException as error:
                if not runner.run(block.__aexit__(type(error), error, error.__traceback__)):
                    raise
            else:
                runner.run(block.__aexit__(None, None, None))


def _by_way_of(twin: str) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: asyncio.run(getattr(self, twin)(*args, **kwargs))


for name in TWINS.keys() - vars(Asynchronous).keys():
    setattr(Asynchronous, name, _by_way_of(TWINS[name]))
