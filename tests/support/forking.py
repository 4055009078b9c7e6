"""Handlers that fork, or start threads and programs."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from django_srq import Item, signals
from tests.support.handlers import _say

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
LONG = ["sleep", "600"]


def forking(payload: dict[str, object], item: Item) -> None:
    """On the first delivery, does the deed that the payload names."""
    _say(f"begin {payload['do']} {item.deliveries} {os.getpid()}")
    if item.deliveries == 1:
        DEEDS[str(payload["do"])](payload)


async def aforking(payload: dict[str, object], item: Item) -> None:
    forking(payload, item)
    await asyncio.sleep(0)


def _handled() -> list[str]:
    return [getattr(handler, "__name__", None) or repr(handler) for handler in map(signal.getsignal, NUMBERS)]


def _in_fork(deed: Callable[[], object], fork: Callable[[], int] = os.fork) -> int:
    """Run deed in a fork; returns the exit status of the fork."""
    pid = fork()
    if pid == 0:
        try:
            deed()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _program(payload: dict[str, object]) -> None:
    code = f"import signal; print([repr(signal.getsignal(number)) for number in {[*map(int, NUMBERS)]}])"
    _say(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    os.system(f"grep SigIgn /proc/self/status >> {os.environ['SRQ_TEST_LOG']}")


def _fork(payload: dict[str, object]) -> None:
    _in_fork(lambda: _say(f"handled {_handled()} {signal.set_wakeup_fd(-1)}"))


def _pipes(payload: dict[str, object]) -> None:
    """Log how many of this process's pipes a fork inherits."""
    mine = _pipes_open()
    _in_fork(lambda: _say(f"shared {len(_pipes_open() & mine)} of {len(mine) > 0}"))


def _pipes_open() -> set[str]:
    streams = {os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)}
    ends = [end for end in Path("/proc/self/fd").iterdir() if end.is_symlink()]
    return {link for end in ends if os.path.lexists(end) and (link := os.readlink(end)).startswith("pipe")} - streams


def _pool(payload: dict[str, object]) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(abs, range(4))
    pool.join()
    _say(f"terminated {os.getpid()}")


def _fork_in_c(payload: dict[str, object]) -> None:
    status = _in_fork(_end_by_sigterm, ctypes.PyDLL(None).fork)
    _say(f"ended by {status} {os.getpid()}")


def _end_by_sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


def _return(payload: dict[str, object]) -> None:
    if pid := os.fork():
        _say(f"fork ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def _exit(payload: dict[str, object]) -> None:
    if (pid := os.fork()) == 0:
        sys.exit(3)
    _say(f"fork ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def _hang(payload: dict[str, object]) -> None:
    _start_programs(payload)
    subprocess.run(LONG, check=False)


def _start_programs(payload: dict[str, object]) -> None:
    subprocess.Popen(LONG)
    subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"])
    if payload.get("session"):
        subprocess.Popen(LONG, start_new_session=True)
    _say("started")


def _crash(payload: dict[str, object]) -> None:
    _start_programs(payload)
    os._exit(7)


def _leave_program(payload: dict[str, object]) -> None:
    subprocess.Popen(["sh", "-c", f"sleep 0.5; echo program later >> {os.environ['SRQ_TEST_LOG']}"])


def _later(who: str) -> None:
    time.sleep(0.5)
    _say(f"{who} later")


def _leave_threads(payload: dict[str, object]) -> None:
    _EXECUTOR.submit(_later, "executor")
    threading.Thread(target=_later, args=["thread"]).start()


def _leave_endless(payload: dict[str, object]) -> None:
    threading.Thread(target=time.sleep, args=[600], name="endless").start()


def _terminal(payload: dict[str, object]) -> None:
    """Log the result of reading from the terminal, and run a program for a second."""
    try:
        _say(f"read {os.read(0, 100)!r}")
    except OSError as error:
        _say(f"read {error.strerror}")
    _say(f"program ended {subprocess.run(['sleep', '1'], check=False).returncode}")


def _orphan_program(payload: dict[str, object]) -> None:
    subprocess.run(["sh", "-c", "(sleep 0.3 &); exit 0"], check=True)


def _status(payload: dict[str, object]) -> None:
    """Log the exit status of a program while orphans end beside it; with ``late``, it has ended before the wait."""
    program = subprocess.Popen(["sh", "-c", "(exit 4 &); (sleep 0.1 &); exit 3"])
    if payload.get("late"):
        time.sleep(0.5)
    _say(f"status {program.wait()}")


_EXECUTOR = ThreadPoolExecutor()
DEEDS = {
    "nothing": lambda payload: None,
    "program": _program,
    "fork": _fork,
    "pipes": _pipes,
    "pool": _pool,
    "fork in C": _fork_in_c,
    "return": _return,
    "exit": _exit,
    "hang": _hang,
    "crash": _crash,
    "leave program": _leave_program,
    "leave programs": _start_programs,
    "leave threads": _leave_threads,
    "leave endless": _leave_endless,
    "orphan": _orphan_program,
    "status": _status,
    "terminal": _terminal,
}
signals.child_started.connect(
    lambda consumer, **about: _say(f"child_started {consumer} {os.getpid()}"), weak=False, dispatch_uid=__name__
)
