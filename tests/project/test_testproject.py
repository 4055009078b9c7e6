"""The test project: its demonstration, its own tests, and its settings."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

import pytest

from django_srq.transport.clients import client_from_url
from tests.support.waiting import wait_for

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "testproject"


@pytest.fixture
def environment(tmp_path):
    """A clean environment; the project keeps its data in tmp_path."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "SHOP_DATA": str(tmp_path),
        "TMPDIR": str(tmp_path),
    }


def run(*arguments: str, environment: dict[str, str], expected: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def processes_that_name(text: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in command or text in os.readlink(process / "cwd"):
                found.append(command)
        except OSError:  # the process ended meanwhile, or belongs to another user
            continue
    return found


def test_the_demo(environment, tmp_path):
    out = run("demo.py", environment=environment)
    assert re.search(r"the slow order +deliveries: 3 +<- again \d+\.\d s after the first kill, \d+\.\d\d s after", out)
    assert "Nothing lost, nothing doubled: 5 orders" in out
    assert "make serve" in out
    assert "Traceback" not in out
    assert list(tmp_path.iterdir()) == []
    if Path("/proc").exists():
        wait_for(lambda: not processes_that_name(str(tmp_path)), "the end of all processes")


@pytest.mark.once
def test_the_demo_fails_when_a_promise_is_broken(environment, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'srq_consume' in sys.argv: os.write(2, b'no consumer today'); os._exit(1)\n"
    )
    out = run("demo.py", environment={**environment, "PYTHONPATH": f"{tmp_path}:{ROOT}"}, expected=1)
    assert "Waited in vain for the slow order in hand" in out
    assert "no consumer today" in out
    assert "Traceback" not in out


@pytest.mark.parametrize("given", [pytest.param(True, marks=pytest.mark.once), False], ids=["REDIS_URL", "embedded"])
def test_the_project_s_own_tests(environment, server_url, given):
    if given:
        environment["REDIS_URL"] = server_url
    out = run("manage.py", "test", environment=environment)
    assert "OK" in out
    assert "no issues" in out


def test_the_migrations_of_the_project_are_complete(environment):
    run("manage.py", "makemigrations", "--check", "--dry-run", environment=environment)


QUEUES = """
from django_srq import queues
for alias in ("test", "orders"):
    queue = queues[alias]
    queue.keys = type(queue.keys)({prefix!r} + alias)
    queue.put("x")
    print(alias, queue.link.address, queue.config.prefix)
"""


def test_the_project_uses_redis_url(environment, server_url, prefix):
    """The queue ``test`` uses that URL; ``orders`` uses a cache alias in the next database."""
    environment["REDIS_URL"] = server_url
    run("manage.py", "migrate", "--verbosity", "0", environment=environment)
    out = run("manage.py", "shell", "--verbosity", "0", "-c", QUEUES.format(prefix=prefix), environment=environment)
    parts = urlsplit(server_url)
    database = int(parts.path.strip("/") or 0)
    next_url = parts._replace(path=f"/{database + 1}").geturl()
    try:
        found = dict(re.findall(r"^(test|orders) \S+/(\d+) ", out, re.MULTILINE))
        assert found == {"test": str(database), "orders": str(database + 1)}
        for alias, url in (("test", server_url), ("orders", next_url)):
            with client_from_url(url) as client:
                assert client.llen(f"srq:{prefix}{alias}:queue") == 1
        assert "orders" in out
        assert "shop.orders" in out
    finally:
        with client_from_url(next_url) as client:
            for key in client.scan_iter(f"srq:{prefix}*", count=1000):
                client.delete(key)


def test_serve_runs_the_shop_and_its_consumer(environment, dead_port):
    """The shop answers, an order is handled, and one signal ends the server and the consumer."""
    environment["PORT"] = str(dead_port)  # free until the shop listens on it
    url = f"http://127.0.0.1:{environment['PORT']}/"
    process = subprocess.Popen(
        [sys.executable, "serve.py"],
        cwd=PROJECT,
        env={**environment, "PYTHONWARNINGS": "default"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        wait_for(lambda: answers(url), "the shop")
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        form = browser.open(url).read().decode()
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[1]
        browser.open(url, f"csrfmiddlewaretoken={token}&product=tea&quantity=2".encode()).close()
        wait_for(
            lambda: re.search(r"2 x tea<td>[\d:]+<td>[\d:]+", browser.open(url).read().decode()), "the handled order"
        )
        login = browser.open(url + "admin/").read().decode()
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', login)[1]
        data = f"csrfmiddlewaretoken={token}&username=admin&password=admin&next=/admin/".encode()
        assert "Site administration" in browser.open(url + "admin/login/", data).read().decode()
    finally:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "user admin, password admin" in out
    assert not answers(url)
    wait_for(lambda: not processes_that_name(environment["SHOP_DATA"]), "the end of all processes")


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except (URLError, OSError):
        return False
    return True
