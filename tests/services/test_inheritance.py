"""What was open before a child process was forked is not shared after it."""

from __future__ import annotations

import os
import re
import signal

import pytest

from django_srq import queues
from tests.consumer.test_supervisor import children
from tests.support.waiting import wait_for

PROCESSES = 3


@pytest.fixture
def consumer(project, server_url, prefix):
    """Start a consumer whose handler is that, and whose settings have that code."""

    def start(handler: str, code: str):
        project.configure({"q": {"HANDLER": handler, "LEASE": 60}}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
        project.add_to_settings(code)
        return project.start("srq_consume", "--processes", str(PROCESSES), stderr=None)

    return start


def at_work(project, payloads: list[object]) -> list[int]:
    """Have one item in hand in each child; the ids of the children."""
    before = len(project.lines())
    queues["q"].put_many(payloads)

    def begun() -> list[int]:
        return [int(line.split()[-1]) for line in project.lines()[before:] if line.startswith("begin ")]

    wait_for(lambda: len(set(begun())) == PROCESSES, "an item in each child")
    return begun()


def read(project, alias: str, numbers: range) -> None:
    """The children of these numbers have read what is theirs, and nothing else."""
    pattern = re.compile(rf"{alias} \{{.*\}}")
    wanted = [f"{alias} {ONLY.format(number)}" for number in numbers]

    def found() -> list[str]:
        return sorted(filter(pattern.fullmatch, project.lines()))[-len(wanted) :]

    wait_for(lambda: all(line in project.lines() for line in wanted), f"{wanted}, not {found()}", seconds=20)


ONLY = "{{'number {}'}}"


@pytest.fixture
def databases(postgresql):
    """Code for the settings: two databases with pools of connections, and a log handler that uses them if so told."""
    one = {**postgresql, "OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}}
    return f"DATABASES = {{'default': {one!r}, 'other': {one!r}}}"


LOGGING = """
LOGGING = {
    "version": 1,
    "handlers": {"asking": {"class": "tests.services.logs.AskingHandler"}},
    "loggers": {"django_srq": {"handlers": ["asking"], "level": "ERROR"}},
}
"""


def test_children_read_no_rows_of_each_other(project, databases, consumer):
    consumer("tests.services.handlers.read_rows", databases)
    at_work(project, [[number, "on"] for number in range(PROCESSES)])
    project.say("on")
    for alias in ("default", "other"):
        read(project, alias, range(PROCESSES))


def test_later_children_share_nothing_that_the_supervisor_opened_meanwhile(project, databases, consumer):
    """As it does where the project's log handlers use a database."""
    process = consumer("tests.services.handlers.read_rows", databases + LOGGING)
    before = at_work(project, [[number, "first"] for number in range(PROCESSES)])
    project.say("first")
    # What is in hand at a death comes back one by one.
    wait_for(lambda: not any(queues["q"].counts().values()), "their end")
    for child in before:
        os.kill(child, signal.SIGKILL)
    wait_for(lambda: len({*children(process)} - {*before}) == PROCESSES, "their successors")
    at_work(project, [[number, "on"] for number in range(PROCESSES, 2 * PROCESSES)])
    project.say("on")
    for alias in ("default", "other"):
        read(project, alias, range(PROCESSES, 2 * PROCESSES))


@pytest.mark.parametrize("options", [{}, {"use_pooling": True}])
def test_children_get_no_replies_of_each_other_from_memcached(project, memcached, consumer, options):
    cache = {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": memcached,
        "OPTIONS": options,
    }
    consumer("tests.services.caching.remember", f"CACHES = {{'default': {cache!r}, 'other': {cache!r}}}")
    at_work(project, list(range(PROCESSES)))
    project.go.touch()
    for alias in ("default", "other"):
        read(project, alias, range(PROCESSES))
