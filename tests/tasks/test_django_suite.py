"""The run of Django's own tests fails when a test is missing, new, or ends otherwise than listed."""

from __future__ import annotations

import pytest

from tests.tasks.django_suite import __main__ as django_suite
from tests.tasks.django_suite.lists import SINCE_6_1, SUITES, Suite

OLD = SUITES[0].tests - SINCE_6_1


def judged(monkeypatch, passed, failed=(), version=(6, 0, 10)):
    monkeypatch.setattr("django.VERSION", (*version, "final", 0))
    suite = Suite("S", (), {}, SUITES[0].tests, {"TaskTestCase.test_name": "why"})
    return list(django_suite.judge(suite, {*passed}, {*failed}, {}))


def test_all_is_as_listed(monkeypatch):
    passed = OLD - {"TaskTestCase.test_name"}
    assert judged(monkeypatch, passed, ["TaskTestCase.test_name"]) == []
    assert judged(monkeypatch, passed | SINCE_6_1, ["TaskTestCase.test_name"], (6, 1, 3)) == []


@pytest.mark.parametrize(
    ("more", "less", "failed", "problem"),
    [
        ((), ("TaskTestCase.test_name",), (), "S: TaskTestCase.test_name is missing"),
        (
            ("TaskTestCase.test_new",),
            ("TaskTestCase.test_name",),
            ("TaskTestCase.test_name",),
            "S: TaskTestCase.test_new is in no list",
        ),
        ((), (), (), "S: TaskTestCase.test_name passed; it is listed as one that cannot (why)"),
        (
            (),
            ("TaskTestCase.test_name", "TaskTestCase.test_get_result"),
            ("TaskTestCase.test_name", "TaskTestCase.test_get_result"),
            "S: TaskTestCase.test_get_result failed\n",
        ),
    ],
)
def test_what_is_not_as_listed(monkeypatch, more, less, failed, problem):
    assert judged(monkeypatch, (OLD | {*more}) - {*less}, failed) == [problem]


def test_a_test_of_a_later_django(monkeypatch):
    """It is missing there, and new before."""
    name = min(SINCE_6_1)
    passed = OLD - {"TaskTestCase.test_name"}
    assert judged(monkeypatch, passed | {name}, ["TaskTestCase.test_name"]) == [f"S: {name} is in no list"]
    missing = judged(monkeypatch, (passed | SINCE_6_1) - {name}, ["TaskTestCase.test_name"], (6, 1, 3))
    assert missing == [f"S: {name} is missing"]


def test_each_test_that_cannot_apply_is_one_of_the_suite():
    for suite in SUITES:
        assert suite.cannot.keys() <= suite.tests
