"""The package on the disk is replaced while a process runs: the process goes on with the version that it has read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import django_srq
from django_srq import queues
from tests.support.project import ROOT
from tests.support.waiting import PATIENT, wait_for

LONG = 600  # seconds; a lease that does not end during a test


@pytest.fixture
def copy(tmp_path):
    """A folder with a copy of the package."""
    folder = tmp_path / "site"
    shutil.copytree(Path(django_srq.__file__).parent, folder / "django_srq", ignore=shutil.ignore_patterns("*.pyc"))
    return folder


@pytest.mark.parametrize("processes", ["1", "0"])
def test_a_consumer_reads_all_scripts_at_its_start(project, server_url, prefix, copy, processes):
    told = {"HANDLER": "tests.support.handlers.told", "LEASE": LONG, "BACKOFF": {"base": 1000}}
    project.configure({"told": told}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
    path = {"PYTHONPATH": f"{copy}:{ROOT}:{project.folder}"}
    consumer = project.start("srq_consume", "--processes", processes, environment=path)
    queue = queues["told"]
    queue.put({"do": "nothing", "name": "before"})
    wait_for(lambda: queue.snapshot().stats.get("acked"), "the first item")
    (copy / "django_srq" / "operations" / "lua").rename(copy / "elsewhere")
    queue.put({"do": "raise", "word": "none"})  # this item fails
    project.say("none")
    wait_for(lambda: queue.counts()["delayed"] == 1, "the item that failed")
    if processes == "1":
        queue.put({"do": "exit", "name": "crash"})  # this item kills its child and is handed out again
        wait_for(lambda: queue.snapshot().stats["acked"] == 2, "the item whose child died")
    queue.put({"do": "nothing", "name": "after"})
    wait_for(lambda: any(line.startswith("after") for line in project.lines()), "the last item")
    consumer.terminate()
    assert consumer.wait(PATIENT) == 0
    assert consumer.stderr.read().count("Traceback") == 1  # of the item that failed


PRODUCER = """
import sys
from django_srq import SafeRedisQueue
queue = SafeRedisQueue(name=sys.argv[2], url=sys.argv[1], timeout=60)
print(flush=True)
sys.stdin.readline()
queue.put("x")
queue.fail(queue.get(-1), "boom")
assert queue.ack(queue.get(-1))
assert queue.audit() == []
queue.pause()
queue.resume()
queue.purge()
"""


def test_a_producer_reads_all_scripts_at_its_start(server_url, prefix, copy):
    """It reads them before its first call, which a worker of a web server may make long after its start."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRODUCER, server_url, prefix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(copy), *sys.path])},
        cwd=copy,  # Python searches for modules here first
    )
    process.stdout.readline()
    (copy / "django_srq" / "operations" / "lua").rename(copy / "elsewhere")
    _, err = process.communicate("\n", timeout=PATIENT)
    assert (process.returncode, err) == (0, "")
