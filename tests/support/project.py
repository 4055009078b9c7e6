"""A project of a test's own: its settings, its queues, and the commands as real processes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

from django.core.management import ManagementUtility

from django_srq import SafeRedisQueue, queues
from django_srq.transport.link import Link
from tests.support.waiting import PATIENT, wait_for

ROOT = Path(__file__).parents[2]
LEASE = 0.6  # seconds


def signal_session(session: int, number: int) -> list[int]:
    """Send a signal to all living processes of a session, whatever their groups are; returns their ids."""
    listed = os.listdir("/proc") if os.path.isdir("/proc") else []
    # Children before their parents: when a parent dies, the system lets its stopped children go on.
    pids = sorted(map(int, filter(str.isdecimal, listed)), reverse=True)
    found = [pid for pid in pids if _lives_in(session, pid)]
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return found


def kill_session(process: subprocess.Popen[Any]) -> None:
    """Kill a process that leads a session, and all other processes of that session at once."""
    signal_session(process.pid, signal.SIGSTOP)  # or the last to die would notice the death of the others
    while signal_session(process.pid, signal.SIGKILL):
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # where there is no /proc
    process.wait()


def _lives_in(session: int, pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # the process has ended
        return False
    return fields[0] != "Z" and int(fields[3]) == session


@contextlib.contextmanager
def replaced_stdin(given: TextIO) -> Iterator[None]:
    stdin, sys.stdin = sys.stdin, given
    try:
        yield
    finally:
        sys.stdin = stdin


@cache
def documented_codes(command: str) -> set[int]:
    """The exit codes that the help of a srq_ command has."""
    return set(import_module(f"django_srq.management.commands.{command}").Command.all_exit_codes())


class Project:
    """The tests' settings with queues of one test, for this process and for commands that run as real processes."""

    def __init__(self, settings, folder: Path, url: str, prefix: str) -> None:
        self.folder, self.settings = folder, settings
        self.log, self.go = folder / "log", folder / "go"
        self.log.touch()
        self.processes: list[subprocess.Popen[str]] = []
        self.limits: list[tuple[Link, float]] = []
        self.configure(
            {
                "note": {"HANDLER": "tests.support.handlers.note"},
                "slow": {"HANDLER": "tests.support.handlers.slow"},
                "failing": {"HANDLER": "tests.support.handlers.failing", "BACKOFF": {"base": 1000}},
                "async": {"HANDLER": "tests.support.handlers.asynchronous"},
                "leaving": {"HANDLER": "tests.support.handlers.leaving", "MAX_DELIVERIES": 2},
                "told": {"HANDLER": "tests.support.handlers.told"},
                "raw": {"SERIALIZER": "raw"},
                "json": {},
            },
            {"URL": url, "PREFIX": prefix + ".{alias}", "LEASE": LEASE},
        )

    def configure(self, queues_: dict[str, object], defaults: dict[str, object]) -> None:
        defaults = {"TIMEOUT": PATIENT, **defaults}
        self.settings.SRQ_DEFAULTS = defaults
        self.settings.SRQ_QUEUES = queues_
        (self.folder / "srq_settings.py").write_text(
            f"from tests.support.settings import *\nSRQ_QUEUES = {queues_!r}\nSRQ_DEFAULTS = {defaults!r}\n"
            f"DATABASES['default']['NAME'] = {str(self.folder / 'db')!r}\n"
        )

    def add_to_settings(self, code: str) -> None:
        """Add code to the settings that the commands use."""
        with (self.folder / "srq_settings.py").open("a") as file:
            file.write(f"\n{code}\n")

    @property
    def variables(self) -> dict[str, str]:
        """For the handlers of the tests."""
        return {"SRQ_TEST_LOG": str(self.log), "SRQ_TEST_GO": str(self.go)}

    def start(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        closed: int | None = None,
        under: Sequence[str] = (),
        program: Sequence[str] = ("-m", "django"),
        **options: object,
    ) -> subprocess.Popen[str]:
        """Start a command. closed: the standard stream that it does not have. under: a command that runs it.

        program: what Python runs instead of Django's commands.
        """
        variables = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{self.folder}",
            "DJANGO_SETTINGS_MODULE": "srq_settings",
            **self.variables,
            **(environment or {}),
            # Output is buffered, as users have it: a signal handler must not write while the buffer is written.
            "PYTHONUNBUFFERED": "",
        }
        closing = [] if closed is None else ["sh", "-c", f'exec "$@" {closed}>&-', "sh"]
        piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(
            [*under, *closing, sys.executable, *program, *arguments],
            env=variables,
            text=True,
            cwd=self.folder,
            start_new_session=True,
            **piped,
        )
        self.processes.append(process)
        return process

    def say(self, word: str) -> None:
        """Let the handlers go on that wait for this word."""
        (self.folder / f"go-{word}").touch()

    def run(self, *arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command that ends by itself."""
        process = self.start(*arguments)
        out, err = process.communicate(stdin, timeout=60)
        return process.returncode, out, err

    def call(self, *arguments: str, stdin: str | TextIO = "", stderr: TextIO | None = None) -> tuple[int, str, str]:
        """As ``run``, but within this process: quick, for tests that are about what a command does, prints and asks."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        given = io.StringIO(stdin) if isinstance(stdin, str) else stdin
        with (
            redirect_stdout(out),
            redirect_stderr(stderr or err),
            replaced_stdin(given),
            mock.patch.dict(os.environ, self.variables),
        ):
            try:
                ManagementUtility(["django-admin", *arguments]).execute()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
        assert code in documented_codes(arguments[0]), (arguments, code)
        return code, out.getvalue(), err.getvalue()

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill a command and all its children at once, as the loss of a host does."""
        kill_session(process)

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def said(self, line: str) -> None:
        wait_for(lambda: line in self.lines(), line)

    def patient(self, alias: str) -> SafeRedisQueue:
        """The queue, with a time limit that suits a slow machine; a shorter TIMEOUT is for the commands only.

        All tests of this process share the link to a target, so ``close`` restores its time limit.
        """
        link = queues[alias].link
        self.limits.append((link, link.timeout))
        link.timeout = PATIENT
        return queues[alias]

    def close(self) -> None:
        for link, timeout in reversed(self.limits):
            link.timeout = timeout
        for process in self.processes:
            self.kill(process)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream and not stream.closed:
                    stream.close()
