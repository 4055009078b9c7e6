"""Tasks as people see them: from the payload of an item to a call, with nothing that the payload would not show."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from django_srq import conf
from django_srq.queue.masking import MASK
from django_srq.status.tasks import short, task_of_group, task_shown, value_shown


@pytest.fixture
def config(settings):
    settings.SRQ_QUEUES = {"mail": {"URL": "redis://localhost"}}
    return conf.queue_config("mail")


def envelope(*args: object, task: str = "shop.tasks.welcome", **kwargs: object) -> bytes:
    return json.dumps({"task": task, "args": args, "kwargs": kwargs}, separators=(",", ":")).encode()


MASKED = f"welcome({{'api_key': {MASK}, 'n': [{{'token': {MASK}}}]}})"


def without_email(alias, payload):
    if isinstance(payload, dict) and "kwargs" in payload:
        payload["kwargs"].pop("email", None)
    return payload


def without_envelope(alias, payload):
    return "hidden"


def failing(alias, payload):
    raise KeyError("customer")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (envelope(), "welcome()"),
        (envelope(1, full=False), "welcome(1, full=False)"),
        (envelope(None, 1.5, "a 'b'", names=["x", None]), "welcome(None, 1.5, \"a 'b'\", names=['x', None])"),
        (envelope({"a": {"b": [True]}}), "welcome({'a': {'b': [True]}})"),
        (envelope("ä\x1b[2J\n"), r"welcome('ä\x1b[2J\n')"),
        (envelope("a", password="geheim"), f"welcome('a', password={MASK})"),
        (envelope({"api_key": "geheim", "n": [{"token": 1}]}), MASKED),
        (envelope("redis://ada:geheim@host"), f"welcome('redis://ada:{MASK}@host')"),
    ],
)  # fmt: skip
def test_a_task_is_shown_as_a_call(config, data, text):
    shown = task_shown(config, data, len(data))
    assert (shown.name, shown.text) == ("shop.tasks.welcome", text)
    assert "geheim" not in repr(shown)


def test_the_arguments_are_data_too(config):
    data = envelope(1, [2], token="geheim", full=True)
    shown = task_shown(config, data, len(data))
    assert (shown.args, shown.kwargs) == ([1, [2]], {"token": MASK, "full": True})


def test_a_long_call_is_cut(config):
    data = envelope("x" * 500)
    assert task_shown(config, data, len(data)).cut(20) == "welcome('xxxxxxxxxx…"
    assert task_shown(config, envelope(1), len(envelope(1))).cut(20) == "welcome(1)"


def test_the_redactor_of_the_project_sees_the_whole_payload(config, settings):
    data = envelope(1, email="ada@example.org")
    settings.SRQ_ADMIN = {"REDACTOR": f"{__name__}.without_email"}
    assert task_shown(config, data, len(data)).text == "welcome(1)"
    settings.SRQ_ADMIN = {"REDACTOR": f"{__name__}.without_envelope"}
    assert task_shown(config, data, len(data)).text == '"hidden"'
    settings.SRQ_ADMIN = {"REDACTOR": f"{__name__}.failing"}
    shown = task_shown(config, data, len(data))
    assert (shown.name, shown.args) == ("", None)
    assert "the redactor failed" in shown.text


@pytest.mark.parametrize(
    "payload",
    [17, None, "text", [], {}, {"task": 1, "args": [], "kwargs": {}}, {"task": "a.b", "args": {}, "kwargs": {}},
     {"task": "a.b", "args": []}, {"order": 17}],
)  # fmt: skip
def test_another_payload_is_shown_as_it_is(config, payload):
    data = json.dumps(payload).encode()
    shown = task_shown(config, data, len(data))
    assert (shown.name, shown.args, shown.kwargs) == ("", None, None)
    assert json.loads(shown.text) == payload


def test_bytes_that_are_no_json_are_shown(config):
    shown = task_shown(config, b"\xff{", 2)
    assert (shown.name, shown.args) == ("", None)
    assert "ff 7b" in shown.text


def test_a_task_with_a_large_payload_keeps_its_name(config):
    data = envelope("geheim" * 9999)
    shown = task_shown(config, data[:1000], len(data))
    assert (shown.name, shown.text, shown.args) == ("shop.tasks.welcome", "welcome(…)", None)
    assert task_shown(config, b"", len(data)).text == "Too large to display."
    assert task_shown(config, b'{"task":"', len(data)).name == ""


def test_what_a_task_returned(config, settings):
    assert value_shown("mail", None) == "None"
    assert value_shown("mail", {"n": 1, "token": "geheim"}) == f"{{'n': 1, 'token': {MASK}}}"
    settings.SRQ_ADMIN = {"REDACTOR": f"{__name__}.failing"}
    assert value_shown("mail", {"n": 1}) == "It is not displayed, because the redactor failed."


def test_other_words_are_secret_too(config, settings):
    settings.SRQ_ADMIN = {"REDACT": ["iban"]}
    data = envelope(iban="DE00", password="visible")
    assert task_shown(config, data, len(data)).text == f"welcome(iban={MASK}, password='visible')"


@pytest.mark.parametrize(
    ("group", "parts"),
    [
        ("shop.tasks.welcome: ValueError tasks.py:check", ("shop.tasks.welcome", "ValueError tasks.py:check")),
        ("shop.tasks.welcome: Failed: no", ("shop.tasks.welcome", "Failed: no")),
        ("shop.tasks.welcome: Crashed: killed by SIGKILL", ("shop.tasks.welcome", "Crashed: killed by SIGKILL")),
        ("Crashed: killed by SIGKILL", ("", "Crashed: killed by SIGKILL")),
        ("Failed: a.b: c", ("", "Failed: a.b: c")),
        ("shop.errors.Bad tasks.py:check", ("", "shop.errors.Bad tasks.py:check")),
        ("LeaseEnded", ("", "LeaseEnded")),
        ("other", ("", "other")),
    ],
)
def test_groups_of_failed_tasks_name_the_task(group, parts):
    assert task_of_group(group) == parts


def test_the_name_without_its_module():
    assert short("shop.tasks.welcome") == "welcome"
    assert short("") == ""


def test_only_the_configuration_makes_a_queue_one_of_tasks(config):
    from django_srq.status.tasks import is_of_tasks

    assert not is_of_tasks(config)
    assert not is_of_tasks(replace(config, handler="shop.tasks.welcome"))
