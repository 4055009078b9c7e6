"""A consumer as the first process of a container, which becomes the parent of orphans."""

from __future__ import annotations

import os
import pty
import re
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.consumer.test_forks import begun, empty, forking
from tests.support.waiting import wait_for

__all__ = ["forking"]

CONTAINER = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--pid", "--fork"]


def children(pid: int) -> list[int]:
    """The child processes, including dead ones that nobody has reaped yet."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def first_process(process) -> int:
    (first,) = wait_for(lambda: children(process.pid), "the first process")
    return first


def worker(first: int) -> int:
    """The process that does the work when there are no child processes."""
    (pid,) = wait_for(lambda: children(first), "the process that does the work")
    return pid


@pytest.mark.parametrize(
    ("arguments", "left"), [(["--processes", "1"], 2), (["--processes", "0"], 1), (["--autoreload"], 1)]
)
def test_the_first_process_reaps_orphans_and_obeys_a_stop(project, forking, arguments, left):
    """The processes left are the keeper and the child, or only the one that does the work."""
    queue = forking()
    queue.put_many([{"do": "orphan"}, {"do": "orphan"}, {"do": "program"}])
    process = project.start("srq_consume", *arguments, under=CONTAINER, stderr=None)
    first = first_process(process)
    wait_for(lambda: empty(queue), "all items")
    wait_for(lambda: len(children(first)) == left, "the end of all other processes")
    assert "SIG_DFL" in project.lines()[-2]  # the handler got the exit status of its program
    os.kill(first, signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.mark.parametrize("processes", ["1", "0"])
def test_handlers_get_the_exit_status_of_their_programs(project, forking, processes):
    queue = forking()
    queue.put_many([{"do": "status"}, {"do": "status", "late": True}] * 3)
    process = project.start("srq_consume", "--burst", "--processes", processes, under=CONTAINER, stderr=None)
    assert process.wait(60) == 0
    assert [line for line in project.lines() if line.startswith("status")] == ["status 3"] * 6


# -- without child processes


def test_the_process_that_does_the_work_is_announced(project, forking):
    forking().put({"do": "nothing"})
    process = project.start("srq_consume", "--burst", "--processes", "0", under=CONTAINER, stderr=None)
    assert process.wait(60) == 0
    assert [line.split()[0] for line in project.lines()] == ["child_started", "begin"]


@pytest.mark.parametrize(
    ("numbers", "code"),
    [([signal.SIGINT, signal.SIGTERM], 143), ([signal.SIGUSR1], 128 + signal.SIGUSR1)],
    ids=["a second stop", "another signal"],
)
def test_signals_are_passed_on_and_the_exit_code_is_that_of_the_worker(project, forking, numbers, code):
    queue = forking()
    queue.put({"do": "hang"})
    process = project.start("srq_consume", "--processes", "0", under=CONTAINER)
    first = first_process(process)
    begun(project, "hang")
    for number in numbers:
        os.kill(first, number)
        if number == signal.SIGINT:
            wait_for(lambda: "stopping" in process.stderr.readline(), "the log line of the first signal")
    assert process.wait(60) == code


def test_a_killed_worker_ends_its_container(project, forking):
    forking().put({"do": "hang"})
    process = project.start("srq_consume", "--processes", "0", under=CONTAINER)
    begun(project, "hang")
    os.kill(worker(first_process(process)), signal.SIGKILL)
    assert process.wait(60) == 137


def test_wrong_usage_has_its_exit_code_in_a_container(project, forking):
    forking()
    process = project.start("srq_consume", "nowhere", "--processes", "0", under=CONTAINER)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("nowhere")) == (2, 1)


@contextmanager
def terminal():
    """Yields the user's end of a terminal, and the end of the programs."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def test_ctrl_c_arrives_as_one_signal(project, forking):
    """A second signal would interrupt the item in hand."""
    queue = forking()
    queue.put({"do": "status", "late": True})
    with terminal() as (ours, theirs):
        under = ["setsid", "--ctty", "--wait", *CONTAINER]
        process = project.start(
            "srq_consume", "--processes", "0", under=under, stdin=theirs, stdout=theirs, stderr=theirs
        )
        begun(project, "status")
        os.write(ours, b"\x03")
        assert process.wait(60) == 0
        said = os.read(ours, 65536).decode()
    assert len(re.findall("stopping: waiting for", said)) == 1
    assert empty(queue)
