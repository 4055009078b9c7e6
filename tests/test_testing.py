"""The testing kit: queues for one test, and a call that handles their ready items."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from pathlib import Path

import pytest
from django.db import connection
from django.test import SimpleTestCase, TestCase

from django_srq import ConfigurationError, queues
from django_srq.testing import QueueTestMixin, isolated_queues, run_all
from django_srq.testing import srq_queues as srq_queues  # the fixture, imported as a user imports it

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def configured(settings, server_url, prefix):
    settings.SRQ_DEFAULTS = {"URL": server_url, "PREFIX": prefix + ".{alias}"}
    settings.SRQ_QUEUES = {
        "note": {"HANDLER": "tests.support.handlers.note", "PREFIX": prefix + ".own"},
        "failing": {"HANDLER": "tests.support.handlers.failing"},
        "async": {"HANDLER": "tests.support.handlers.asynchronous"},
        "counting": {"HANDLER": "tests.support.handlers.counting"},
        "plain": {},
    }


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("SRQ_TEST_LOG", str(path))
    return path


def keys_of(queue, client):
    return list(client.scan_iter(f"{queue.keys}*", count=1000))


def test_the_queues_of_a_test_start_empty_and_leave_no_keys(client):
    queues["note"].put("kept")
    names = set()
    for _ in range(2):
        with isolated_queues():
            inside = queues["note"]
            assert len(inside) == 0
            inside.put("a")
            inside.put("b", delay=60, headers={"a": "b"}, priority=1)
            assert inside.get(-1)
            assert keys_of(inside, client)
            names.add(str(inside.keys))
        assert keys_of(inside, client) == []
    assert len(names) == 2
    assert str(queues["note"].keys) not in names
    assert [item.payload for item in queues["note"].items()] == ["kept"]


def test_the_queues_are_cleared_when_the_test_fails(client):
    with pytest.raises(LookupError), isolated_queues():
        inside = queues["plain"]
        inside.put("a")
        raise LookupError
    assert keys_of(inside, client) == []


def test_the_fixture(srq_queues, prefix):
    assert srq_queues is queues
    assert prefix not in str(queues["note"].keys)
    assert prefix not in str(queues["plain"].keys)


def test_the_fixture_as_a_plugin_of_pytest(tmp_path, server_url, prefix):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["django_srq.testing"]\n')
    (tmp_path / "own_settings.py").write_text(
        f"USE_TZ = True\nINSTALLED_APPS = ['django_srq']\n"
        f"SRQ_QUEUES = {{'q': {{'URL': {server_url!r}, 'PREFIX': '{prefix}'}}}}\n"
    )
    (tmp_path / "test_it.py").write_text(
        "def test_it(srq_queues):\n"
        "    srq_queues['q'].put(1)\n"
        f"    assert len(srq_queues['q']) == 1 and {prefix!r} not in str(srq_queues['q'].keys)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--ds=own_settings", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_mixin(prefix, client):
    used = []

    class Tests(QueueTestMixin, SimpleTestCase):
        def runTest(self):
            queues["note"].put("a")
            used.append(queues["note"])
            raise LookupError

    result = unittest.TestResult()
    for _ in range(2):
        Tests().run(result)
    assert len(result.errors) == 2
    assert len({str(queue.keys) for queue in used}) == 2
    assert [keys_of(queue, client) for queue in used] == [[], []]
    assert str(queues["note"].keys) == f"srq:{prefix}.own"


@pytest.mark.django_db
def test_the_mixin_in_a_database_test(log):
    class Tests(QueueTestMixin, TestCase):
        def runTest(self):
            with self.captureOnCommitCallbacks(execute=True):
                queues["note"].put_on_commit("a")
                self.assertEqual(len(queues["note"]), 0)
            self.assertEqual(len(run_all("note")), 1)

    result = unittest.TestResult()
    Tests().run(result)
    assert (result.errors, result.failures, result.testsRun) == ([], [], 1)


def test_the_kit_works_without_pytest():
    code = "import sys; sys.modules['pytest'] = None; from django_srq.testing import QueueTestMixin, run_all"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


# -- run_all


def test_run_all_handles_the_ready_items_in_order(log):
    uids = [queues["note"].put(payload) for payload in ("a", None, 0)]
    queues["note"].put("later", delay=60)
    handled = run_all("note")
    assert [item.uid for item in handled] == uids
    assert log.read_text().splitlines() == ["a 1", "None 1", "0 1"]
    assert queues["note"].counts() == {"ready": 0, "in_flight": 0, "delayed": 1, "dead": 0}
    assert run_all("note") == []


def test_run_all_with_a_limit(log):
    queues["note"].put_many("abc")
    assert [item.payload for item in run_all("note", limit=2)] == ["a", "b"]
    assert queues["note"].counts() == {"ready": 1, "in_flight": 0, "delayed": 0, "dead": 0}


def test_run_all_raises_the_handler_s_exception():
    queues["failing"].put_many("ab")
    with pytest.raises(LookupError, match="cannot handle a"):
        run_all("failing")
    assert queues["failing"].counts() == {"ready": 1, "in_flight": 0, "delayed": 1, "dead": 0}
    (failed,) = queues["failing"].items("delayed")
    assert failed.delivery.error["message"] == "cannot handle a"


def test_run_all_with_an_async_handler(log):
    queues["async"].put("a")
    assert len(run_all("async")) == 1
    assert log.read_text() == "a async\n"


def test_run_all_needs_a_handler():
    queues["plain"].put("a")
    with pytest.raises(ConfigurationError, match=r"SRQ_QUEUES\['plain'\] has no HANDLER"):
        run_all("plain")
    assert len(queues["plain"]) == 1


@pytest.mark.django_db
def test_the_queries_of_the_handlers_can_be_counted(django_assert_num_queries):
    queues["counting"].put_many([1, 2])
    with django_assert_num_queries(3):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        run_all("counting")
