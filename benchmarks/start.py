"""The processor time that many queues cost when a process starts: ``manage.py check``, and ``srq_consume``."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import Bench, Row, alternate
from django_srq import SafeRedisQueue

ROOT = Path(__file__).parent.parent
MANY = 1000  # queues
COMMANDS = {"manage.py check": ["check"], "srq_consume until its first item": ["srq_consume", "--max-items", "1"]}
SETTINGS = """
from tests.settings import *
SRQ_QUEUES = {{f"q{{number}}": {{"HANDLER": "benchmarks.start.handle"}} for number in range({number})}}
SRQ_DEFAULTS = {{"URL": {url!r}, "PREFIX": "start{number}.{{alias}}"}}
"""


def handle(payload: object) -> None:
    """The handler of all these queues."""


def measure(bench: Bench) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="srq-start-") as folder:
        for name, command in COMMANDS.items():
            starts = {number: _starting(bench, Path(folder), number, command) for number in (MANY, 1)}
            values = alternate({str(number): start for number, start in starts.items()}, bench.sizes.starts)
            yield Row(f"{name}, {MANY:,} queues", values[str(MANY)], "ms CPU", "1 queue", values["1"])


def _starting(bench: Bench, folder: Path, number: int, command: list[str]) -> Callable[[], float]:
    module = f"start_{number}"
    (folder / f"{module}.py").write_text(SETTINGS.format(number=number, url=bench.server.url))
    queue = SafeRedisQueue(name=f"start{number}.q0", url=bench.server.url)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "DJANGO_SETTINGS_MODULE": module}

    def start() -> float:
        """The milliseconds of processor time of the command and its children."""
        queue.put(b"1")  # for the command that handles an item
        before = _cpu()
        subprocess.run([sys.executable, "-m", "django", *command], env=environment, check=True, capture_output=True)
        return (_cpu() - before) * 1000

    return start


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
