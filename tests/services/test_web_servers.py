"""Web servers fork their workers, in Python or in C, before or after a first put: each answered put must be stored."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from django_srq import SafeRedisQueue
from tests.support.servers import hold_port
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
APPLICATION, ASYNCHRONOUS = "tests.services.web:application", "tests.services.web:asynchronous"
REQUESTS, AT_ONCE = 200, 20
HERE = "127.0.0.1:{port}"
GUNICORN = ["gunicorn", "-b", HERE]
UWSGI = ["uwsgi", "--master", "--die-on-term", "--need-app", "--module", APPLICATION, "--http-socket", HERE]
SERVERS = {
    "gunicorn, preloaded": [*GUNICORN, "--preload", "-w", "3", APPLICATION],
    "gunicorn with threads": [*GUNICORN, "--preload", "-w", "2", "--threads", "4", APPLICATION],
    "gunicorn with gevent": [*GUNICORN, "-w", "2", "-k", "gevent", APPLICATION],
    "uvicorn": ["uvicorn", "--workers", "2", "--port", "{port}", "--log-level", "warning", ASYNCHRONOUS],
    "uWSGI": [*UWSGI, "--processes", "3"],
    "uWSGI with threads": [*UWSGI, "--processes", "2", "--enable-threads", "--threads", "4"],
}


@pytest.fixture
def queue(server_url, prefix) -> SafeRedisQueue:
    return SafeRedisQueue(url=server_url, name=prefix)


@pytest.fixture(params=SERVERS.values(), ids=SERVERS)
def port(request, server_url, queue, tmp_path) -> Iterator[int]:
    """The port of a running web server."""
    with closing(hold_port()) as holder:
        port = int(holder.getsockname()[1])
    program, *arguments = (word.format(port=port) for word in request.param)
    settings = {"SRQ_TEST_WEB_URL": server_url, "SRQ_TEST_WEB_QUEUE": queue.name, "PYTHONPATH": str(ROOT)}
    log = (tmp_path / "log").open("wb+")
    command = [str(PROGRAMS / program), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}, stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(port) or ended(process, tmp_path / "log"), program)
        yield port
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def ended(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.poll() is None, log.read_text()


def ask(port: int, path: str) -> tuple[str, str]:
    """The id of the process that put an item, and the uid of the item."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as reply:
        process, uid = reply.read().decode().split()
    return process, uid


def answers(port: int) -> bool:
    try:
        return bool(ask(port, "first"))
    except (urllib.error.URLError, ConnectionError):
        return False


def several(answered: list[tuple[str, str]], port: int) -> bool:
    """Put another round of items, adding the answers to ``answered``; tell whether several processes have answered."""
    numbers = range(len(answered), len(answered) + REQUESTS)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answered += pool.map(lambda number: ask(port, str(number)), numbers)
    return len({process for process, _ in answered}) > 1


def test_each_answered_put_is_stored(port, queue):
    answered: list[tuple[str, str]] = []
    # On a busy machine one process may take all requests of a round.
    wait_for(lambda: several(answered, port), "answers of a second process")
    stored = {item.uid: item.payload.decode() for item in queue.items()}
    assert [uid for _, uid in answered if uid not in stored] == []
    assert sorted(stored[uid] for _, uid in answered) == sorted(f"/{number}" for number in range(len(answered)))
    assert queue.audit() == []
