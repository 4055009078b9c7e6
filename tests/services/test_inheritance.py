"""Connections that were open before a child process was forked are not shared with the child."""

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
    """Starts a consumer with this handler and this code in its settings."""

    def start(handler: str, code: str):
        project.configure({"q": {"HANDLER": handler, "LEASE": 60}}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
        project.add_to_settings(code)
        return project.start("srq_consume", "--processes", str(PROCESSES), stderr=None)

    return start


def at_work(project, payloads: list[object]) -> list[int]:
    """Give each child an item and wait until all have begun; returns the ids of the children."""
    before = len(project.lines())
    queues["q"].put_many(payloads)

    def begun() -> list[int]:
        return [int(line.split()[-1]) for line in project.lines()[before:] if line.startswith("begin ")]

    wait_for(lambda: len(set(begun())) == PROCESSES, "an item in each child")
    return begun()


def read(project, alias: str, numbers: range) -> None:
    """Check that the children with these numbers have read their own data, and nothing else."""
    pattern = re.compile(rf"{alias} \{{.*\}}")
    wanted = [f"{alias} {ONLY.format(number)}" for number in numbers]

    def found() -> list[str]:
        return sorted(filter(pattern.fullmatch, project.lines()))[-len(wanted) :]

    wait_for(lambda: all(line in project.lines() for line in wanted), f"{wanted}, not {found()}", seconds=20)


ONLY = "{{'number {}'}}"


@pytest.fixture
def databases(postgresql):
    """Code for the settings: two databases with connection pools."""
    one = {**postgresql, "OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}}
    return f"DATABASES = {{'default': {one!r}, 'other': {one!r}}}"


LOGGING = """
LOGGING = {
    "version": 1,
    "handlers": {"asking": {"class": "tests.services.logs.AskingHandler"}},
    "loggers": {"django_srq": {"handlers": ["asking"], "level": "ERROR"}},
}
"""


def test_children_do_not_read_rows_of_each_other(project, databases, consumer):
    consumer("tests.services.handlers.read_rows", databases)
    at_work(project, [[number, "on"] for number in range(PROCESSES)])
    project.say("on")
    for alias in ("default", "other"):
        read(project, alias, range(PROCESSES))


def test_a_later_child_shares_no_connection_that_the_supervisor_opened_meanwhile(project, databases, consumer):
    """The supervisor opens one when a log handler of the project uses a database."""
    process = consumer("tests.services.handlers.read_rows", databases + LOGGING)
    before = at_work(project, [[number, "first"] for number in range(PROCESSES)])
    project.say("first")
    # The items must be handled before the children die, because items of a death come back one by one.
    wait_for(lambda: not any(queues["q"].counts().values()), "the end of all items")
    for child in before:
        os.kill(child, signal.SIGKILL)
    wait_for(lambda: len({*children(process)} - {*before}) == PROCESSES, "the successors of all children")
    at_work(project, [[number, "on"] for number in range(PROCESSES, 2 * PROCESSES)])
    project.say("on")
    for alias in ("default", "other"):
        read(project, alias, range(PROCESSES, 2 * PROCESSES))


@pytest.mark.parametrize("options", [{}, {"use_pooling": True}])
def test_children_do_not_read_memcached_replies_of_each_other(project, memcached, consumer, options):
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
