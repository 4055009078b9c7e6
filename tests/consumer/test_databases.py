"""A consumer without child processes does not touch the database connections of the code that runs it."""

from __future__ import annotations

TESTS = '''
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import TestCase, TransactionTestCase

from django_srq import queues
from django_srq.testing import QueueTestMixin, run_all

SEEN = []


def count(payload):
    SEEN.append(User.objects.count())


async def acount(payload):
    SEEN.append(await User.objects.acount())


def batch(payloads):
    SEEN.append(User.objects.count())


def consume(*arguments):
    call_command("srq_consume", *arguments, "--processes", "0", "--burst", "-v", "0")


class Within(QueueTestMixin, TestCase):
    """A transaction is under way, which ends when its connection is closed."""

    def setUp(self):
        super().setUp()
        SEEN.clear()
        User.objects.create(username="anna")

    def tearDown(self):
        self.assertFalse(connection.closed_in_transaction)
        self.assertEqual(User.objects.count(), 1)

    def test_handler(self):
        queues["count"].put_many(range(3))
        consume("count")
        self.assertEqual(SEEN, [1] * 3)

    def test_queries_are_counted(self):
        queues["count"].put_many(range(3))
        with self.assertNumQueries(3):
            consume("count")

    def test_batch(self):
        queues["batch"].put_many(range(3))
        consume("batch")
        self.assertEqual(SEEN, [1])

    def test_async_handler(self):
        queues["acount"].put_many(range(3))
        consume("acount")
        self.assertEqual(SEEN, [0] * 3)  # in a thread of its own, which sees what is committed

    def test_many_threads(self):
        queues["count"].put_many(range(3))
        consume("count", "--threads", "3")
        self.assertEqual(len(SEEN), 3)

    def test_run_all(self):
        for alias in ("count", "acount", "batch"):
            queues[alias].put(1)
            run_all(alias)
        self.assertEqual(SEEN, [1] * 3)


class Without(QueueTestMixin, TransactionTestCase):
    def test_connection_of_the_caller_stays(self):
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE mine (name)")
            queues["count"].put(1)
            consume("count")
            cursor.execute("SELECT * FROM mine")

    def test_connection_of_a_handler_is_closed(self):
        connection.close()
        queues["count"].put(1)
        consume("count")
        self.assertIsNone(connection.connection)
'''


def test_a_consumer_in_the_process_of_a_test_closes_only_connections_that_it_opened(project, server_url, prefix):
    names = ("count", "acount", "batch")
    made = {name: {"HANDLER": f"consuming_tests.{name}"} for name in names}
    made["batch"]["HANDLER_BATCH"] = 10
    project.configure(made, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
    project.add_to_settings(f"DATABASES['default']['TEST'] = {{'NAME': {str(project.folder / 'test_db')!r}}}")
    project.add_to_settings("from tests.settings import INSTALLED_APPS, MIDDLEWARE, TEMPLATES")
    (project.folder / "consuming_tests.py").write_text(TESTS)
    code, _, err = project.run("test", "consuming_tests", "--noinput")
    assert code == 0, err
    assert "Ran 8 tests" in err
