"""The peers: their requirements, and the fastest way to run each by its documentation, in an environment of its own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
APPS = HERE / "apps"  # a module for each peer, with its handlers and puts, that runs in the peer's environment
VENVS = HERE / ".venvs"
PATIENCE = 600  # seconds for an installation


class Absent(Exception):
    """Raised, with the reason, when a contender cannot be measured."""


@dataclass(frozen=True)
class Contender:
    """A queue with a worker command. ``command`` starts one process, or has {n} for the number of processes."""

    name: str
    app: str
    command: Sequence[str]
    several: Sequence[str] = ()  # the command for several processes; empty: ``command`` is started several times
    requirements: Sequence[str] = ()  # empty: this project's own environment
    pace: int = 20_000  # items that it drains in some seconds
    loses: bool = False  # whether a crash loses the items in hand
    holding: Sequence[str] = ()  # options of the command that keep {n} items in flight in one process
    alone: str = ""  # the reason why it never has many items in flight
    python_from: tuple[int, int] = (3, 11)
    environment: Mapping[str, str] = field(default_factory=dict)  # for its worker and for the process that puts

    @property
    def python(self) -> str:
        if not self.requirements:
            return sys.executable
        return str(_environment(tuple(self.requirements), self.python_from) / "python")

    def commands(self, processes: int, url: str, holding: int = 0) -> list[list[str]]:
        """The commands that start so many worker processes; holding: the items that the first keeps in flight."""
        template, times = (self.command, processes) if processes == 1 or not self.several else (self.several, 1)
        folder = Path(self.python).parent
        filled = [part.format(n=processes, url=url) for part in template]
        filled += [part.format(n=holding) for part in self.holding if holding]
        program = [self.python, *filled[1:]] if filled[0] == "python" else [str(folder / filled[0]), *filled[1:]]
        return [program] * times


_REDIS = ("redis==6.4.0", "hiredis==3.5.0")
_SRQ = ("python", "-m", "django", "srq_consume", "bench", "--settings", "srq_settings")

_ONE = "has one item in flight a process"
_NOT_MEANWHILE = "has one item in flight: it fetches no more while a handler is at work"

OURS = Contender("django-srq", "srq_app", _SRQ, (*_SRQ, "--processes", "{n}"), holding=("--prefetch", "{n}"))
PEERS = (
    Contender(
        "saferedisqueue 3.0",
        "saferedisqueue_app",
        ("python", "saferedisqueue_app.py", "work"),
        requirements=("saferedisqueue==3.0.0", "redis==2.10.6", "setuptools==80.9.0"),  # for distutils
    ),
    Contender(
        "rq 2.12, SimpleWorker",
        "rq_app",
        ("rq", "worker", "--quiet", "--url", "{url}", "--worker-class", "rq.SimpleWorker", "bench"),
        requirements=("rq==2.12.0", *_REDIS),
        pace=1500,
        alone=_ONE,
    ),
    Contender(
        "rq 2.12",
        "rq_app",
        ("rq", "worker", "--quiet", "--url", "{url}", "bench"),
        ("rq", "worker-pool", "--quiet", "--url", "{url}", "--num-workers", "{n}", "bench"),
        requirements=("rq==2.12.0", *_REDIS),
        pace=200,
        alone=_ONE,
    ),
    Contender(
        "huey 3.5",
        "huey_app",
        ("huey_consumer", "huey_app.huey", "--workers", "1", "--quiet"),
        ("huey_consumer", "huey_app.huey", "--worker-type", "process", "--workers", "{n}", "--quiet"),
        requirements=("huey==3.5.4", *_REDIS),
        loses=True,
        alone="keeps nothing of an item in flight on the server",
    ),
    Contender(
        "dramatiq 2.2, one thread",
        "dramatiq_app",
        ("dramatiq", "dramatiq_app", "--processes", "1", "--threads", "1"),
        ("dramatiq", "dramatiq_app", "--processes", "{n}", "--threads", "1"),
        requirements=("dramatiq[redis]==2.2.1", *_REDIS),
        pace=10_000,
    ),
    Contender(
        "dramatiq 2.2",
        "dramatiq_app",
        ("dramatiq", "dramatiq_app", "--processes", "1"),
        ("dramatiq", "dramatiq_app", "--processes", "{n}"),
        requirements=("dramatiq[redis]==2.2.1", *_REDIS),
        pace=10_000,
    ),
    Contender(
        "celery 5.7, solo",
        "celery_app",
        ("celery", "-A", "celery_app", "worker", "--pool", "solo", "--loglevel", "WARNING"),
        requirements=("celery[redis]==5.7.0", *_REDIS),
        pace=5000,
        loses=True,
        alone=_NOT_MEANWHILE,
    ),
    Contender(
        "celery 5.7, prefork",
        "celery_app",
        ("celery", "-A", "celery_app", "worker", "--concurrency", "1", "--loglevel", "WARNING"),
        ("celery", "-A", "celery_app", "worker", "--concurrency", "{n}", "--loglevel", "WARNING"),
        requirements=("celery[redis]==5.7.0", *_REDIS),
        pace=5000,
        loses=True,
        holding=("--prefetch-multiplier", "{n}"),
    ),
    Contender(
        "arq 0.28",
        "arq_app",
        ("arq", "arq_app.WorkerSettings"),
        requirements=("arq==0.28.0", "hiredis==3.5.0"),
        pace=2000,
    ),
    Contender(
        "taskiq-redis 1.2, stream",
        "taskiq_app",
        ("taskiq", "worker", "taskiq_app:broker", "--workers", "1", "--log-level", "WARNING"),
        ("taskiq", "worker", "taskiq_app:broker", "--workers", "{n}", "--log-level", "WARNING"),
        requirements=("taskiq-redis==1.2.4", "taskiq==0.13.0", "redis==8.1.0", "hiredis==3.5.0"),
        holding=("--max-async-tasks", "{n}"),
    ),
    Contender(
        "django-tasks-redis 0.4",
        "django_tasks_app",
        ("python", "-m", "django", "run_redis_tasks", "--continuous", "--settings", "django_tasks_settings"),
        requirements=("django-tasks-redis==0.4.0", "Django==6.1.3", "redis==8.1.0", "hiredis==3.5.0"),
        python_from=(3, 12),
        pace=2000,
        alone=_ONE,
    ),
)


@cache
def _environment(requirements: tuple[str, ...], python_from: tuple[int, int]) -> Path:
    """The folder with the programs of an environment with these requirements; made on the first use."""
    python = _python(python_from)
    text = "\n".join((python, *requirements))
    folder = VENVS / f"{requirements[0].split('==')[0].split('[')[0]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    done = folder / ".installed"
    if not done.exists():
        print(f"installing {', '.join(requirements)}", file=sys.stderr)
        _run(python, "-m", "venv", "--clear", str(folder))
        pip = (str(folder / "bin" / "python"), "-m", "pip")
        _run(*pip, "install", "--quiet", "--disable-pip-version-check", *requirements)
        done.write_text(_run(*pip, "freeze"), "utf-8")
    return folder / "bin"


def _run(*command: str) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise Absent("cannot be installed: it took too long") from None
    if run.returncode:
        raise Absent(f"cannot be installed: {(run.stderr.strip() or run.stdout.strip() or '?').splitlines()[-1]}")
    return run.stdout


def _python(version: tuple[int, int]) -> str:
    """A Python of that version or newer: the running one, else one on the path."""
    if sys.version_info[:2] >= version:
        return sys.executable
    for minor in range(14, version[1] - 1, -1):
        program = shutil.which(f"python3.{minor}")
        if program and subprocess.run([program, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return program
    raise Absent(f"needs Python {version[0]}.{version[1]} or newer, and there is none on the path")
