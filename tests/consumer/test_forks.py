"""Forks, threads and programs of handlers, and the forks of the child processes themselves."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from django_srq import queues
from tests.consumer.test_keeper import full_pipe
from tests.support.waiting import wait_for

LONG = 600  # seconds; a lease that does not end during a test


@pytest.fixture
def forking(project, server_url, prefix):
    """A queue whose items name the deed of their handler."""

    def make(handler: str = "forking", **options: object):
        queue = {"HANDLER": f"tests.support.forking.{handler}", "LEASE": LONG, "BACKOFF": {"base": 1000}, **options}
        project.configure({"q": queue}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
        return project.patient("q")

    return make


def begun(project, do: str, delivery: int = 1) -> int:
    """The id of the process that began this deed."""
    start = f"begin {do} {delivery} "
    return int(wait_for(lambda: [line for line in project.lines() if line.startswith(start)], start)[0].split()[-1])


def at_work(project, program: bytes = b"sleep\0") -> list[int]:
    """The programs of that name that handlers started and that still run."""
    found = []
    for process in filter(lambda path: path.name.isdecimal(), Path("/proc").iterdir()):
        with suppress(OSError):  # the process has ended
            mine = str(project.log).encode() in (process / "environ").read_bytes()
            if mine and (process / "cmdline").read_bytes().startswith(program):
                found.append(int(process.name))
    return found


def empty(queue) -> bool:
    return sum(queue.counts().values()) == 0


# -- what forks and programs inherit


@pytest.mark.parametrize("processes", ["1", "0"])
def test_forks_of_handlers_inherit_no_signal_handlers_or_pipes(project, forking, processes):
    forking().put_many([{"do": "fork"}, {"do": "pipes"}])
    assert project.run("srq_consume", "--burst", "--processes", processes, "--threads", "2")[0] == 0
    default = repr(signal.SIG_DFL)
    project.said(f"handled {[default, 'default_int_handler', default, default]} -1")
    project.said("shared 0 of True")


def test_programs_of_handlers_have_the_usual_signal_handlers(project, forking):
    forking().put({"do": "program"})
    assert project.run("srq_consume", "--burst")[0] == 0
    python, ignored = project.lines()[-2:]
    assert python.count("SIG_DFL") == 3
    assert "default_int_handler" in python
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
    assert [number for number in numbers if int(ignored.split()[1], 16) & 1 << (number - 1)] == []


@pytest.mark.parametrize("processes", ["1", "0"])
def test_a_fork_ends_by_sigterm_and_the_idle_process_uses_no_cpu(project, forking, processes):
    queue = forking()
    queue.put_many([{"do": "pool"}, {"do": "fork in C"}])
    process = project.start("srq_consume", "--processes", processes)
    worker = begun(project, "fork in C")
    project.said(f"ended by {-signal.SIGTERM} {worker}")
    wait_for(lambda: empty(queue), "the ack")
    before, until = cpu(worker), time.monotonic() + 0.5
    wait_for(lambda: time.monotonic() > until, "half a second")
    assert cpu(worker) - before < 0.25
    process.terminate()
    assert process.wait(60) == 0


def cpu(pid: int) -> float:
    """The CPU time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("handler", ["forking", "aforking"])
def test_a_fork_that_returns_from_the_handler_ends(project, forking, handler):
    """Otherwise it would handle the items that wait in this process, and report the outcome of its own."""
    queue = forking(handler)
    queue.put_many([{"do": "return"}, {"do": "exit"}, {"do": "nothing"}])
    assert project.run("srq_consume", "--burst", "--prefetch", "3")[0] == 0
    said = [line.rsplit(" ", 1)[0] if line.startswith("begin") else line for line in project.lines()[1:]]
    assert said == ["begin return 1", "fork ended 0", "begin exit 1", "fork ended 3", "begin nothing 1"]
    stats = queue.snapshot().stats
    assert (stats["acked"], stats.get("failed", 0), empty(queue)) == (3, 0, True)


WITH_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_only_the_supervisor_uses_the_terminal(project, forking):
    """A handler that reads from the terminal fails, and is not stopped; Ctrl-C stops the consumer, but no program."""
    ours, theirs = os.openpty()
    queue = forking()
    queue.put({"do": "terminal"})
    process = project.start("srq_consume", stdin=theirs, under=[sys.executable, "-c", WITH_TERMINAL])
    os.close(theirs)
    project.said(f"read {os.strerror(errno.EIO)}")
    os.write(ours, b"\x03")
    assert process.wait(60) == 0
    project.said("program ended 0")
    assert empty(queue)
    os.close(ours)


# -- programs and threads that still run when a child ends


@pytest.mark.parametrize(
    ("do", "arguments"), [("hang", ["--time-limit", "2"]), ("crash", []), ("hang", ["--grace", "1"])]
)
def test_programs_end_with_a_child_that_is_killed_or_crashes(project, forking, do, arguments):
    queue = forking()
    queue.put({"do": do, "session": do == "hang"})
    process = project.start("srq_consume", *arguments)
    project.said("started")
    if "--grace" in arguments:
        wait_for(lambda: len(at_work(project)) == 5, "all programs")
        process.terminate()
        assert process.wait(60) == 75
    else:
        begun(project, do, 2)
    wait_for(lambda: not at_work(project), "the end of the programs")


@pytest.mark.parametrize("arguments", [["--burst"], ["--max-items", "2"]])
def test_threads_and_programs_that_a_handler_left_may_finish(project, forking, arguments):
    queue = forking()
    queue.put_many([{"do": "leave threads"}, {"do": "leave program"}])
    assert project.run("srq_consume", *arguments)[0] == 0
    assert sorted(line for line in project.lines() if "later" in line) == [
        "executor later",
        "program later",
        "thread later",
    ]
    assert empty(queue)


def test_threads_and_programs_that_outlast_the_grace_are_killed_and_logged(project, forking):
    queue = forking()
    queue.put_many([{"do": "leave endless"}, {"do": "leave programs"}])
    code, _, err = project.run("srq_consume", "--burst", "--grace", "1")
    assert code == 0
    assert re.search(r"killed at the end of the grace period consumer=\S+ still running: endless\n", err)
    assert re.search(
        r"killed at the end of the grace period: programs that handlers started, in process group \d+\n", err
    )
    assert empty(queue)
    wait_for(lambda: not at_work(project), "the end of the programs")


LOGGING = """
LOGGING = {
    "version": 1,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"django_srq": {"handlers": ["stderr"], "level": "WARNING"}},
}
"""


def test_threads_that_outlast_the_grace_are_killed_while_nobody_reads_the_log(project, forking):
    queue = forking()
    project.add_to_settings(LOGGING)
    queue.put({"do": "leave endless"})
    with full_pipe() as (stderr, _):
        process = project.start("srq_consume", "--burst", "--grace", "1", stderr=stderr)
        assert process.wait(60) == 0
    assert empty(queue)


def test_programs_that_handlers_left_get_sigterm_at_a_stop(project, forking):
    queue = forking()
    queue.put({"do": "leave programs"})
    process = project.start("srq_consume", "--grace", "60")
    wait_for(lambda: len(at_work(project)) == 3 and empty(queue), "the programs")
    process.terminate()
    assert process.wait(30) == 0
    assert not at_work(project)


# -- a child without a supervisor


@pytest.mark.parametrize(
    ("arguments", "crashes"), [(["--time-limit", "2"], 1), (["--grace", "1"], 0)], ids=["time limit", "grace"]
)
def test_an_orphan_whose_handler_hangs_is_killed(project, forking, arguments, crashes):
    queue = forking()
    queue.put({"do": "hang", "session": True})
    project.add_to_settings(LOGGING)
    with full_pipe() as (stderr, _):  # nobody reads its log, which must not matter
        process = project.start("srq_consume", *arguments, stderr=stderr)
        child = begun(project, "hang")
        process.kill()
        process.wait()
        wait_for(lambda: not Path(f"/proc/{child}").exists(), "the end of the child")
    wait_for(lambda: not at_work(project), "the end of the programs")
    (item,) = queue.items("ready")
    assert (item.deliveries, item.delivery.crashes) == (1, crashes)
    assert queue.snapshot().consumers.keys() <= {process_id(project)}


def process_id(project) -> str:
    """The id of the supervisor among the consumers."""
    return project.lines()[0].split()[1].split(".")[0]


# -- the fork of a child process


def test_each_child_is_announced_before_its_first_item(project, forking):
    queue = forking()
    queue.put_many([{"do": "crash"}, {"do": "nothing"}])
    assert project.run("srq_consume", "--burst")[0] == 0
    lines = [line.split() for line in project.lines() if line != "started"]
    assert [line[0] for line in lines] == ["child_started", "begin", "child_started", "begin", "begin"]
    first, second = lines[0], lines[2]
    assert (first[2], second[2]) == (lines[1][-1], lines[3][-1])
    assert (first[1][-2:], second[1][-2:]) == (".1", ".2")


def test_without_child_processes_no_child_is_announced(project, forking):
    forking().put({"do": "nothing"})
    assert project.run("srq_consume", "--burst", "--processes", "0")[0] == 0
    assert [line.split()[0] for line in project.lines()] == ["begin"]


RECEIVING = """
import asyncio
from functools import partial

from django_srq import signals
from tests.support.handlers import _say


async def renew(name, **about):
    await asyncio.sleep(0)
    _say(f"renewed {name}")


async def receive(sender, **about):
    await renew("async")


def wrap(sender, **about):
    return renew("wrapped")


def wrap_twice(sender, **about):
    async def outer():
        return renew("wrapped twice")

    return outer()


for receiver in (receive, wrap, wrap_twice, partial(wrap)):
    signals.child_started.connect(receiver, weak=False)


def handle(payload):
    _say(f"handled {payload}")
"""


def test_coroutines_of_receivers_of_child_started_are_awaited_before_the_first_item(project):
    (project.folder / "receiving.py").write_text(RECEIVING)
    project.configure({"q": {"HANDLER": "receiving.handle"}}, project.settings.SRQ_DEFAULTS)
    queues["q"].put(1)
    assert project.run("srq_consume", "--burst")[0] == 0
    *renewed, handled = project.lines()
    expected = ["async", "wrapped", "wrapped", "wrapped twice"]
    assert (sorted(renewed), handled) == ([f"renewed {name}" for name in expected], "handled 1")


ASKING = """
import os
from contextlib import suppress

from django_srq import queues
from tests.support.handlers import _say


def sockets():
    found = set()
    for end in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{end}"))
    return {name for name in found if name.startswith("socket:")}


for queue in (queues["q"], queues["other"]):
    queue.counts()
OPEN = sockets()


def handle(payload):
    _say(f"shared {len(OPEN & sockets())} of {len(OPEN)}")
"""


def test_children_share_no_connection_to_a_queue(project, server_url, prefix):
    (project.folder / "asking.py").write_text(ASKING)
    url, name = server_url, prefix + ".{alias}"
    made = {"q": {"HANDLER": "asking.handle"}, "other": {"URL": url.removesuffix("/0") + "/1"}}
    project.configure(made, {"URL": url, "PREFIX": name})
    queues["q"].put(1)
    assert project.run("srq_consume", "q", "--burst")[0] == 0
    assert project.lines() == ["shared 0 of 2"]
