"""The system checks of TASKS, and what a queue with such a problem does."""

from __future__ import annotations

import pytest
from django.core.checks import run_checks
from django.tasks import default_task_backend

from django_srq import ConfigurationError, conf, queues

URL = "redis://localhost:1/0"
PATH = "django_srq.tasks.SRQBackend"
pytestmark = pytest.mark.versions


@pytest.fixture(autouse=True)
def sockets_are_forbidden(monkeypatch):
    """No check may open a connection."""

    def refuse(*arguments):
        raise AssertionError(f"a connection to {arguments[1:]}")

    monkeypatch.setattr("socket.socket.connect", refuse)


def found(settings, tasks, queues_=None, **defaults):
    """The problems that the checks report, each with its id."""
    settings.SRQ_DEFAULTS, settings.SRQ_QUEUES, settings.TASKS = defaults, queues_ or {}, tasks
    messages = run_checks(tags=["django_srq"])
    return [
        f"{message.id.removeprefix('django_srq.')} {message.msg} {message.hint or ''}".strip() for message in messages
    ]


def backend(queues_=None, /, **options):
    return {"BACKEND": PATH, "OPTIONS": options, **({} if queues_ is None else {"QUEUES": queues_})}


def test_settings_that_are_right(settings):
    assert found(settings, {"default": backend(URL=URL)}) == []
    assert found(settings, {"default": backend(["default", "mail"])}, {"mail": {"LEASE": 30}}, URL=URL) == []
    some = {"jobs": {}, "orders": {"HANDLER": "tests.support.handlers.note"}}
    assert found(settings, {"default": backend([])}, some, URL=URL) == []
    two = {"default": backend(["a"]), "other": backend(["b"], ON_COMMIT=["default"], RESULT_TTL=0)}
    assert found(settings, two, URL=URL) == []
    everything_and_one = {"default": backend([]), "other": backend(["b"])}
    assert found(settings, everything_and_one, {"a": {}}, URL=URL) == []


def refused(alias, text):
    """A queue with the problem cannot be used; others can."""
    with pytest.raises(ConfigurationError, match=text):
        conf.queue_config(alias)
    with pytest.raises(ConfigurationError, match=text):
        queues[alias].counts()


def test_a_queue_is_for_tasks_or_for_a_handler(settings):
    some = {"mail": {"HANDLER": "tests.support.handlers.note"}, "other": {}}
    (message,) = found(settings, {"default": backend(["mail"])}, some, URL=URL)
    assert message == (
        "E012 SRQ_QUEUES['mail'] has a HANDLER, and TASKS['default'] has it as a queue of tasks. "
        "A queue is for tasks or for a handler: remove the HANDLER, or the queue from QUEUES."
    )
    refused("mail", "has a HANDLER, and TASKS")
    assert conf.queue_config("other").alias == "other"


@pytest.mark.parametrize("serializer", ["pickle", "raw", "tests.support.decoding.Reversed"])
def test_tasks_are_json(settings, serializer):
    some = {"mail": {"SERIALIZER": serializer}}
    messages = found(settings, {"default": backend(["mail"])}, some, URL=URL)
    assert (
        f"E013 SRQ_QUEUES['mail'] has the SERIALIZER {serializer!r}, and tasks need 'json'. "
        "Set SRQ_QUEUES['mail']['SERIALIZER'] to 'json'."
    ) in messages
    refused("mail", "tasks need 'json'")


def test_the_default_serializer_may_be_another(settings):
    messages = found(settings, {"default": backend(["mail"])}, SERIALIZER="raw", URL=URL)
    assert messages == [
        "E013 The queue 'mail' of TASKS['default'] has the SERIALIZER 'raw', and tasks need 'json'. "
        "Set TASKS['default']['OPTIONS']['SERIALIZER'] to 'json'."
    ]
    assert found(settings, {"default": backend(["mail"], SERIALIZER="json")}, SERIALIZER="raw", URL=URL) == []


@pytest.mark.parametrize("names", ["default", None, [5], [""], {"default": 1}])
def test_queues_is_a_list_of_names(settings, names):
    params = {"default": {"BACKEND": PATH, "QUEUES": names}}
    assert f"E014 TASKS['default']['QUEUES'] must be a list of names of queues, not {names!r}." in found(
        settings, params, {"default": {}}, URL=URL
    )


def test_a_backend_without_any_queue(settings):
    some = {"orders": {"HANDLER": "tests.support.handlers.note"}}
    assert found(settings, {"default": backend([])}, some, URL=URL) == [
        "E014 TASKS['default']['QUEUES'] is empty, so the backend has every queue of SRQ_QUEUES without a HANDLER. "
        "There is none. Name its queues, such as ['default']."
    ]
    assert conf.queue_config("orders").handler  # the others can be used


@pytest.mark.parametrize("name", ["two words", "a{b", "x" * 201])
def test_a_name_that_cannot_be_that_of_a_queue(settings, name):
    (message,) = found(settings, {"default": backend([name])}, URL=URL)
    assert message.startswith("E006 ")
    refused(name, "must be 1 to 200 characters without blanks and braces")


def test_a_queue_without_a_server(settings):
    (message,) = found(settings, {"default": backend(["mail"])})
    assert message.startswith("E004 TASKS['default']['OPTIONS'] has neither URL nor CACHE.")
    refused("mail", "neither URL nor CACHE")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "E001 TASKS['default']['OPTIONS'] must be a dict of options, not list"),
        ({"URL": URL, "RESULTS_TTL": 5}, "E002 TASKS['default']['OPTIONS'] has the unknown option 'RESULTS_TTL'. Did"),
        ({"URL": URL, "HANDLER": "a.b"}, "E002 TASKS['default']['OPTIONS'] has the unknown option 'HANDLER'"),
        ({"URL": URL, "RESULT_TTL": -1}, "E003 TASKS['default']['OPTIONS']['RESULT_TTL'] must be "),
        ({"URL": URL, "RESULT_MOST": 0}, "E003 TASKS['default']['OPTIONS']['RESULT_MOST'] must be "),
        (
            {"URL": URL, "ON_COMMIT": None},
            "E003 TASKS['default']['OPTIONS']['ON_COMMIT'] must be True, False, an alias",
        ),
        ({"URL": URL, "ON_COMMIT": []}, "E003 TASKS['default']['OPTIONS']['ON_COMMIT'] must be True, False, an alias"),
        ({"URL": URL, "LEASE": 0}, "E003 TASKS['default']['OPTIONS']['LEASE'] must be "),
        ({"URL": ""}, "E003 TASKS['default']['OPTIONS']['URL'] must be a string, not ''"),
    ],
)
def test_wrong_options(settings, options, expected):
    (message,) = found(settings, {"default": {"BACKEND": PATH, "OPTIONS": options}})
    assert message.startswith(expected)
    refused("default", "TASKS")


@pytest.mark.parametrize("on_commit", ["defualt", ["default", "defualt"]])
def test_a_database_that_does_not_exist(settings, on_commit):
    (message,) = found(settings, {"default": backend(URL=URL, ON_COMMIT=on_commit)})
    assert message == (
        "W009 TASKS['default']['OPTIONS']['ON_COMMIT'] names 'defualt', which is not in DATABASES. "
        "Did you mean 'default'? Known: default."
    )


def test_two_backends_with_one_queue(settings):
    two = {"default": backend(["default", "mail"]), "other": backend(["mail"])}
    (message,) = found(settings, two, URL=URL)
    assert message == (
        "E015 TASKS['other'] and TASKS['default'] have the same queue 'mail'. Remove it from the QUEUES of one of them."
    )
    refused("mail", "have the same queue")
    assert conf.queue_config("default").tasks == "default"


def test_a_subclass_is_checked_too(settings):
    path = "tests.tasks.django_suite.backends.Queueing"
    (message,) = found(settings, {"default": {"BACKEND": path, "OPTIONS": {"URL": URL, "LEESE": 1}}})
    assert message.startswith("E002 TASKS['default']['OPTIONS'] has the unknown option 'LEESE'.")


@pytest.mark.parametrize(
    "path",
    ["django.tasks.backends.dummy.DummyBackend", "django_srq.tasks.ImmediateBackend", "does.not.exist", None, 5],
)
def test_other_backends_are_not_checked(settings, path):
    assert found(settings, {"default": {"BACKEND": path, "QUEUES": 7, "OPTIONS": {"LEESE": 1}}}) == []


def test_the_app_is_not_installed(settings):
    """Then it has no checks of its own, and Django asks the backend."""
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_srq"]
    settings.TASKS = {"default": backend(URL=URL)}
    (message,) = [message for message in run_checks() if message.id and message.id.startswith("django_srq.W010")]
    assert message.msg == "TASKS['default'] is a backend of django_srq, which is not in INSTALLED_APPS."
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django_srq"]
    assert default_task_backend.check() == []


def test_a_single_failure_of_a_task_that_nobody_hears_of(settings, monkeypatch):
    monkeypatch.setattr(conf, "_errors_are_reported", lambda: False)
    settings.TASKS = {"default": backend(URL=URL, PREFIX="mysite.{alias}", MAX_DELIVERIES=1)}
    (message,) = run_checks(tags=["django_srq"], include_deployment_checks=True)
    assert (message.id, "reported to nobody: default." in message.msg) == ("django_srq.W008", True)
    settings.TASKS = {"default": backend(URL=URL, PREFIX="mysite.{alias}")}
    assert run_checks(tags=["django_srq"], include_deployment_checks=True) == []
