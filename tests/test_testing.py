"""The testing kit: queues for one test, and a call that handles their ready items."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
import subprocess
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import ANY

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import SimpleTestCase, TestCase, override_settings

from django_srq import ConfigurationError, InvalidArgument, SafeRedisQueue, UnknownQueue, default_queue, queues
from django_srq.queue import puts
from django_srq.testing import PutForbidden, QueueTestMixin, assert_put, isolated_queues, run_all
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


@pytest.mark.once
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


# -- assert_put


def failure(*arguments, **options):
    with pytest.raises(AssertionError) as caught:
        assert_put(*arguments, **options)
    return str(caught.value)


def test_assert_put_returns_the_items_that_wait():
    queue = queues["plain"]
    ready, later = queue.put({"order": 17}), queue.put({"order": 18}, delay=60, headers={"by": "me"})
    assert [item.uid for item in assert_put("plain")] == [ready, later]
    assert [item.uid for item in assert_put(queue, {"order": 17}, count=1)] == [ready]
    assert [item.uid for item in assert_put("plain", {"order": ANY}, count=2)] == [ready, later]
    assert [item.uid for item in assert_put("plain", uid=later, headers={"by": "me"}, delayed=True)] == [later]
    assert [item.uid for item in assert_put("plain", headers={"by": "me"})] == [later]
    assert [item.uid for item in assert_put("plain", headers={})] == [ready]
    assert [item.uid for item in assert_put("plain", delayed=True)] == [later]
    assert [item.uid for item in assert_put("plain", delayed=False)] == [ready]
    assert assert_put("plain", {"order": 19}, count=0) == []
    assert len(queue) == 1  # none was taken


def test_assert_put_takes_the_proxy_of_the_default_queue(settings, prefix):
    settings.SRQ_QUEUES = {"default": {"PREFIX": prefix + ".default"}}
    default_queue.put(1)
    assert_put(default_queue, 1, count=1)


def test_assert_put_compares_what_the_handler_would_get():
    queues["plain"].put({"at": dt.date(2026, 1, 2), "pair": (1, 2)})
    assert_put("plain", {"at": "2026-01-02", "pair": [1, 2]}, count=1)
    assert "When {'pair': (1, 2)} is put, the handler gets {'pair': [1, 2]}. " in failure("plain", {"pair": (1, 2)})


def test_assert_put_says_what_is_in_the_queue():
    assert failure("plain") == "queue 'plain': 0 waiting items, not at least 1. The queue is empty."
    assert "0 waiting items with payload=None, not at least 1." in failure("plain", None)
    queue = queues["plain"]
    uids = [queue.put("a"), queue.put("b", headers={"by": "me"}), queue.put("c", delay=60), queue.put("d", priority=9)]
    assert queue.get(-1).uid == uids[3]
    assert failure("plain", "a", count=2) == (
        "queue 'plain': 1 waiting item with payload='a', not 2. In the queue:\n"
        f"  ready {uids[0]} 'a'\n"
        f"  ready {uids[1]} 'b' headers={{'by': 'me'}}\n"
        f"  in_flight {uids[3]} 'd'\n"
        f"  delayed {uids[2]} 'c'"
    )
    assert failure("plain", "a", uid="x", headers={}, delayed=False).startswith(
        "queue 'plain': 0 waiting items with payload='a', uid='x', headers={}, delayed=False, not at least 1. "
    )


def test_assert_put_lists_a_part_of_many_items_and_of_long_payloads():
    queues["plain"].put_many(["x" * 1000] * 1234)
    said = failure("plain", count=0).splitlines()
    assert said[0] == "queue 'plain': 1,234 waiting items, not 0. In the queue:"
    assert said[1].endswith(f" '{'x' * 199}… (1,002 characters)")
    assert (len(said), said[-1]) == (22, "  and 1,214 more")


@pytest.mark.parametrize("wrong", [-1, True, "1", 1.5])
def test_assert_put_with_a_wrong_count(wrong):
    with pytest.raises(InvalidArgument, match=f"^assert_put: count is .*, or None; not {wrong!r}$"):
        assert_put("plain", count=wrong)


def test_assert_put_with_a_wrong_queue():
    with pytest.raises(UnknownQueue, match="Unknown queue 'plane'"):
        assert_put("plane")
    with pytest.raises(InvalidArgument, match="^assert_put takes an alias or a queue, not None$"):
        assert_put(None)


@pytest.mark.django_db
def test_assert_put_in_a_database_test():
    """put_on_commit puts at the end of captureOnCommitCallbacks, and before it the failure says so."""

    class Tests(QueueTestMixin, TestCase):
        def runTest(self):
            with self.captureOnCommitCallbacks(execute=True):
                queues["note"].put_on_commit({"order": 17})
                with pytest.raises(AssertionError, match=r"within captureOnCommitCallbacks\(execute=True\), and "):
                    self.assert_put("note")
            (item,) = self.assert_put("note", {"order": 17}, count=1)
            self.assertEqual(item.deliveries, 0)

    result = unittest.TestResult()
    Tests().run(result)
    assert (result.errors, result.failures, result.testsRun) == ([], [], 1)


# -- the guard


@pytest.fixture
def guarded(settings, monkeypatch):
    monkeypatch.setattr(puts, "guard", None)
    settings.SRQ_TEST_GUARD = True


def forbidden(queue, put):
    with pytest.raises(PutForbidden) as caught:
        put()
    assert queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0}
    return str(caught.value)


@pytest.mark.usefixtures("guarded")
def test_the_guard_says_what_to_do():
    queue = queues["plain"]
    assert forbidden(queue, lambda: queue.put("a")) == (
        "queue 'plain': nothing was put, because no test isolates this queue now, and the item would stay in "
        f"{queue.keys} at {queue.link.address}. To mend this, add QueueTestMixin to the TestCase or the fixture "
        "srq_queues to the test, and put in setUp or later. If a test needs this put, set SRQ_TEST_GUARD to False for "
        "it."
    )


@pytest.mark.usefixtures("guarded")
def test_the_guard_knows_every_way_to_put(link, prefix):
    queue = queues["plain"]
    made = SafeRedisQueue(name=prefix + "made", link=link)
    for put in (
        lambda: queue.put("a"),
        lambda: queue.put_many("ab"),
        lambda: asyncio.run(aput(queue)),
        lambda: call_command("srq_put", "plain", "a"),
    ):
        assert "add QueueTestMixin to the TestCase" in forbidden(queue, put)
    assert "get it from django_srq.queues, which can be isolated" in forbidden(made, lambda: made.put("a"))
    with isolated_queues():
        inside = queues["plain"]
        inside.put("a")
        forbidden(made, lambda: made.put("a"))
        forbidden(queue, lambda: inside.move(queue))
        assert len(inside) == 1
    # A thread that outlives its test has such a queue.
    assert "no test isolates this queue now" in forbidden(inside, lambda: inside.put("a"))


async def aput(queue):
    try:
        await queue.aput("a")
    finally:
        await queue.link.aclose()


@pytest.mark.usefixtures("guarded")
def test_the_guard_lets_all_threads_put_to_isolated_queues():
    with isolated_queues(), ThreadPoolExecutor(1) as thread:
        with isolated_queues():
            thread.submit(lambda: queues["plain"].put("inner")).result()
        thread.submit(lambda: queues["plain"].put("outer")).result()
        assert_put("plain", "outer", count=1)


@pytest.mark.usefixtures("guarded")
def test_the_guard_is_off_where_the_setting_says_so(settings):
    with override_settings(SRQ_TEST_GUARD=False):
        queues["plain"].put("a")
    del settings.SRQ_TEST_GUARD
    queues["plain"].put("b")
    settings.SRQ_TEST_GUARD = "no"
    with pytest.raises(ConfigurationError, match=r"^SRQ_TEST_GUARD is True or False, not 'no'\.$"):
        queues["plain"].put("c")
    assert_put("plain", count=2)


GUARDED = """
import threading, urllib.error, urllib.request
import pytest
from django.test import LiveServerTestCase, SimpleTestCase, TestCase
from django_srq import SafeRedisQueue, queues
from django_srq.testing import QueueTestMixin, run_all

class Isolated(QueueTestMixin, TestCase):
    def test_put(self):
        with self.captureOnCommitCallbacks(execute=True):
            self.client.post("/put/")
        self.assert_put("q", {"order": 17}, count=1)

class Forgotten(TestCase):
    def test_put(self):
        with self.captureOnCommitCallbacks(execute=True):
            self.client.post("/put/")

    def test_nothing_is_committed(self):
        self.client.post("/put/")

class TooEarly(QueueTestMixin, TestCase):
    def test_put(self):
        self.assert_put("q", count=0)

    @classmethod
    def setUpTestData(cls):
        queues["q"].put(1)

class Live(QueueTestMixin, LiveServerTestCase):
    def test_put(self):
        urllib.request.urlopen(self.live_server_url + "/put/", b"").close()
        self.assert_put("q", {"order": 17}, count=1)

class LiveForgotten(LiveServerTestCase):
    def test_put(self):
        with self.assertRaises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(self.live_server_url + "/put/", b"")
        self.assertEqual((caught.exception.code, len(queues["q"])), (500, 0))
        caught.exception.close()
"""

GUARDED_BY_PYTEST = """
def test_the_fixture(srq_queues):
    srq_queues["q"].put(1)

def test_without_the_fixture():
    queues["q"].put(1)

def test_made_by_hand():
    SafeRedisQueue(name=queues["q"].name + ".made", url=queues["q"].config.target.url).put(1)

def test_that_needs_the_put(settings):
    settings.SRQ_TEST_GUARD = False
    # Not "q": a test that runs in another process at this moment looks whether that is empty.
    SafeRedisQueue(name=queues["q"].name + ".needed", url=queues["q"].config.target.url).put(1)
"""


# In parallel, Django passes a failure on only with the package tblib.
IN_PARALLEL = """
from django.test import TestCase
from django_srq import queues
from django_srq.testing import PutForbidden

class First(TestCase):
    def test_put(self):
        with self.assertRaises(PutForbidden):
            queues["q"].put(1)

class Second(First):
    pass
"""


@pytest.fixture
def tested(tmp_path, server_url, prefix):
    """A project with tests that forgot to isolate a queue."""
    (tmp_path / "own_settings.py").write_text(
        "USE_TZ = True\nSECRET_KEY = 'x'\nROOT_URLCONF = 'own_urls'\nALLOWED_HOSTS = ['*']\n"
        "INSTALLED_APPS = ['django_srq']\nSTATIC_URL = 'static/'\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}\n"
        f"SRQ_QUEUES = {{'q': {{'URL': {server_url!r}, 'PREFIX': '{prefix}'}}}}\n"
    )
    (tmp_path / "own_urls.py").write_text(
        "from django.http import HttpResponse\nfrom django.urls import path\nfrom django_srq import queues\n"
        "urlpatterns = [path('put/', lambda request: HttpResponse(queues['q'].put_on_commit({'order': 17})))]\n"
    )
    (tmp_path / "test_it.py").write_text(GUARDED)
    return tmp_path


def run(folder, *arguments, settings="own_settings"):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "DJANGO_SETTINGS_MODULE": settings, "COLUMNS": "500"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    return done.stdout + done.stderr


FORGOTTEN = {"Forgotten::test_put", "TooEarly::test_put"}


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.once)], ids=["one process", "xdist"])
def test_the_guard_by_the_plugin_of_pytest(tested, client, prefix, workers):
    (tested / "conftest.py").write_text('pytest_plugins = ["django_srq.testing"]\n')
    with (tested / "test_it.py").open("a") as file:
        file.write(GUARDED_BY_PYTEST)
    out = run(tested, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "-n", workers)
    failed = set(
        re.findall(r"^(?:FAILED|ERROR) test_it\.py::(\S+) - django_srq\.testing\.PutForbidden: ", out, re.MULTILINE)
    )
    assert failed == FORGOTTEN | {"test_without_the_fixture", "test_made_by_hand"}, out
    assert re.search(r"^3 failed, 6 passed, 1 error in ", out, re.MULTILINE), out
    assert not client.exists(f"srq:{prefix}:items", f"srq:{prefix}.made:items")


def test_the_guard_by_a_line_of_the_settings(tested, client, prefix):
    with (tested / "own_settings.py").open("a") as file:
        file.write("import sys\nSRQ_TEST_GUARD = sys.argv[1:2] == ['test']\n")
    out = run(tested, "-m", "django", "test")
    failed = set(re.findall(r"^(?:ERROR|FAIL): (\w+) \(test_it\.(\w+)", out, re.MULTILINE))
    assert failed == {("setUpClass", "TooEarly"), ("test_put", "Forgotten")}, out
    assert out.count("no test isolates this queue now") == 2
    assert "FAILED (failures=1, errors=1)" in out
    (tested / "test_it.py").write_text(IN_PARALLEL)
    out = run(tested, "-m", "django", "test", "--parallel", "2")
    assert re.search(r"^Ran 2 tests in .*\n\nOK$", out, re.MULTILINE), out
    assert list(client.scan_iter(f"srq:{prefix}*", count=1000)) == []
    said = run(tested, "-m", "django", "srq_put", "q", "x")  # no test: put as always
    assert len(said.strip()) == 36, said


def test_the_guard_in_a_process_that_a_test_starts(tested, client, prefix):
    """It has the settings, but no fixture and no mixin of its parent."""
    with (tested / "own_settings.py").open("a") as file:
        file.write("SRQ_TEST_GUARD = True\n")
    said = run(tested, "-m", "django", "srq_put", "q", "x")
    assert "queue 'q': nothing was put" in said
    assert list(client.scan_iter(f"srq:{prefix}*", count=1000)) == []


@pytest.mark.once
def test_a_project_can_do_without_the_guard(tested):
    (tested / "conftest.py").write_text(
        'import pytest\npytest_plugins = ["django_srq.testing"]\n\n'
        "@pytest.fixture(autouse=True, scope='session')\ndef srq_guard():\n    pass\n"
    )
    (tested / "test_it.py").write_text(
        "from django_srq import queues\n\ndef test_it():\n    queues['q'].drop(queues['q'].put(1))\n"
    )
    assert "1 passed" in run(tested, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.mark.once
def test_the_guard_without_the_settings_of_django(tmp_path, server_url, client, prefix):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["django_srq.testing"]\n')
    (tmp_path / "test_it.py").write_text(
        f"from django_srq import SafeRedisQueue\n\ndef test_it():\n"
        f"    SafeRedisQueue(name={prefix!r}, url={server_url!r}).put(1)\n"
    )
    out = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:django", settings="")
    assert "1 failed" in out, out
    assert "PutForbidden" in out
    assert list(client.scan_iter(f"srq:{prefix}*", count=1000)) == []
