"""A consumer that is the first process of a container, where orphans become its children."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.test_forks import empty, forking
from tests.waiting import wait_for

__all__ = ["forking"]

CONTAINER = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--pid", "--fork"]


def children(pid: int) -> list[int]:
    """With those that are dead, and not reaped."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_orphans_are_reaped_and_a_stop_is_heard(project, forking):
    queue = forking()
    queue.put_many([{"do": "orphan"}, {"do": "orphan"}, {"do": "program"}])
    process = project.start("srq_consume", under=CONTAINER, stderr=None)
    (first,) = wait_for(lambda: children(process.pid), "the first process")
    wait_for(lambda: empty(queue), "all items")
    wait_for(lambda: len(children(first)) == 2, "the end of all but the keeper and the child process")
    assert "SIG_DFL" in project.lines()[-2]  # the handler had the status of its program
    os.kill(first, signal.SIGTERM)
    assert process.wait(60) == 0
