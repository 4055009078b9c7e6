"""The description of an error that is stored with an item."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from django_srq import PayloadError
from django_srq.queue.failure import MESSAGE_MOST, TRACEBACK_MOST, describe


def described(error: BaseException | str, **kwargs: str) -> dict[str, str]:
    return json.loads(describe(error, **kwargs))


def caught(function, *args) -> BaseException:
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError("it did not raise")


def one_way():
    raise ValueError("bad order 17")


def another_way():
    json.loads("{")


def test_keeps_type_message_and_traceback():
    kept = described(caught(one_way))
    assert (kept["type"], kept["message"]) == ("ValueError", "bad order 17")
    assert "in one_way" in kept["traceback"]


def test_names_the_module_of_a_type_that_is_not_built_in():
    assert described(PayloadError("x"))["type"] == "django_srq.exceptions.PayloadError"


def test_text_is_the_message():
    kept = described("no stock")
    assert (kept["type"], kept["message"]) == ("Failed", "no stock")
    assert "traceback" not in kept


def test_names_the_consumer_only_where_there_is_one():
    assert described("x", consumer="host:1")["consumer"] == "host:1"
    assert "consumer" not in described("x")


def test_groups_by_the_last_frame_of_the_projects_own_code():
    assert described(caught(one_way))["fingerprint"] == "ValueError test_failure.py:one_way"
    assert described(caught(another_way))["fingerprint"] == "json.decoder.JSONDecodeError test_failure.py:another_way"


@pytest.mark.parametrize(
    "folder",
    [
        Path(sys.base_prefix) / "src" / "shop",  # such as /usr/src, where the Python is the system's
        Path(sys.base_prefix) / "local" / "shop",
        Path("/srv/site-packages-index/shop"),
        Path("/srv/<shop>"),
    ],
)
def test_a_project_may_lie_anywhere(folder):
    names: dict[str, Callable[[], object]] = {}
    code = compile("import json\ndef handle():\n    json.loads('{')", str(folder / "handlers.py"), "exec")
    exec(code, names)
    assert described(caught(names["handle"]))["fingerprint"] == "json.decoder.JSONDecodeError handlers.py:handle"


@pytest.mark.parametrize("folder", ["/usr/lib/python3/dist-packages", "/srv/shop/.venv/lib/python3.13/site-packages"])
def test_installed_code_is_not_the_projects_own(folder):
    names: dict[str, Callable[..., object]] = {}
    exec(compile("def call(function):\n    return function()", f"{folder}/library/calls.py", "exec"), names)
    exec(compile("def fail():\n    raise ValueError", f"{folder}/library/failing.py", "exec"), names)
    kept = described(caught(lambda: names["call"](names["fail"])))
    assert kept["fingerprint"].startswith("ValueError test_failure.py:")


def test_errors_that_differ_only_in_their_message_are_one_group():
    def fail(number):
        raise LookupError(f"order {number}")

    assert described(caught(fail, 1))["fingerprint"] == described(caught(fail, 2))["fingerprint"]


def test_error_that_was_never_raised_is_described():
    assert described(KeyError("x"))["fingerprint"] == "KeyError"


@pytest.mark.parametrize("error", ["x" * 10**5, ValueError("x" * 10**5)])
def test_long_messages_are_cut(error):
    assert len(described(error)["message"]) == MESSAGE_MOST


def test_long_traceback_keeps_its_end():
    def deep(n):
        return one_way() if n == 0 else other(n)

    def other(n):
        return deep(n - 1)

    traceback = described(caught(deep, 100))["traceback"]
    assert len(traceback) == TRACEBACK_MOST
    assert traceback.endswith("ValueError: bad order 17\n")


def test_text_that_cannot_be_encoded_is_escaped():
    kept = described(ValueError("name \ud800"))
    assert kept["message"] == "name \\ud800"


class Mute(Exception):
    def __str__(self) -> str:
        raise LookupError


def test_an_error_that_cannot_be_described_is_stored_all_the_same():
    assert json.loads(describe(Mute()))["message"] == "<its text cannot be had: LookupError>"
