"""The queues that TASKS makes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from django.core import checks
from django.test import override_settings

from django_srq import ConfigurationError, UnknownQueue, conf, queues
from django_srq.queue.backoff import Backoff
from tests.support.project import ROOT

pytestmark = pytest.mark.versions

OURS = "django_srq.tasks.SRQBackend"
URL = "redis://localhost:6379/7"
SUBCLASS = "tests.tasks.django_suite.backends.Queueing"


@pytest.fixture
def configure(settings):
    """Sets TASKS to one backend with these options, and SRQ_QUEUES and SRQ_DEFAULTS."""

    def configure(options=None, *, names=None, backend=OURS, queues=None, defaults=None):
        entry = {"BACKEND": backend}
        if options is not None:
            entry["OPTIONS"] = options
        if names is not None:
            entry["QUEUES"] = names
        settings.SRQ_QUEUES, settings.SRQ_DEFAULTS, settings.TASKS = queues or {}, defaults or {}, {"default": entry}

    return configure


def texts():
    return [str(problem) for problem in conf.load().problems]


def test_tasks_alone_is_enough(configure):
    configure({"URL": URL})
    config = conf.queue_config("default")
    assert (config.prefix, config.target.url, config.tasks, config.made) == ("default", URL, "default", True)
    assert (config.results_ttl, config.results_most, config.serializer, config.handler) == (
        86400,
        100_000,
        "json",
        None,
    )
    assert conf.aliases() == list(queues) == ["default"]
    assert "default" in queues
    assert texts() == []


def test_all_options_of_queues(configure):
    options = {"URL": URL, "RESULT_TTL": "1h", "RESULT_MOST": 5, "ON_COMMIT": ["default"], "PREFIX": "site.{alias}"}
    options |= {"MAX_DELIVERIES": 3, "BACKOFF": {"base": 5}, "RATE": "5/s", "OPTIONS": {"socket_keepalive": True}}
    configure(options, names=["a", "b"])
    a, b = map(conf.queue_config, ["a", "b"])
    assert (a.prefix, b.prefix) == ("site.a", "site.b")
    assert (a.results_ttl, a.results_most, a.max_deliveries, a.backoff) == (3600, 5, 3, Backoff(base=5))
    assert a.target.options == (("socket_keepalive", True),)
    assert queues["a"].max_deliveries == 3


def test_srq_defaults_hold_for_them_too(configure):
    defaults = {"URL": URL, "MAX_DELIVERIES": 3, "MAX_CRASHES": 7, "PREFIX": "site.{alias}"}
    configure({"MAX_CRASHES": 8}, defaults=defaults)
    config = conf.queue_config("default")
    assert (config.target.url, config.prefix, config.max_deliveries, config.max_crashes) == (URL, "site.default", 3, 8)


def test_a_server_of_the_backend_replaces_that_of_the_defaults(configure):
    configure({"CACHE": "redis"}, defaults={"URL": URL})
    with override_settings(
        CACHES={"redis": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://elsewhere"}}
    ):
        assert conf.queue_config("default").target.url == "redis://elsewhere"


def test_a_handler_in_the_defaults_is_not_for_tasks(configure):
    configure({"URL": URL}, defaults={"HANDLER": "a.b", "HANDLER_BATCH": 5})
    config = conf.queue_config("default")
    assert (config.handler, config.handler_batch) == (None, 1)


def test_a_queue_of_srq_queues_keeps_its_own_options(configure):
    own = {"mail": {"URL": "redis://own", "MAX_DELIVERIES": 2}, "orders": {"URL": URL, "HANDLER": "a.b"}}
    configure({"URL": URL, "MAX_DELIVERIES": 9, "RESULT_TTL": 5}, names=["default", "mail"], queues=own)
    mail = conf.queue_config("mail")
    assert (mail.target.url, mail.max_deliveries, mail.results_ttl) == ("redis://own", 2, 5)
    assert (mail.tasks, mail.made, mail.prefix) == ("default", False, "mail")
    assert conf.aliases() == ["mail", "orders", "default"]
    assert conf.queue_config("orders").tasks == ""
    assert conf.queue_config("default").tasks == "default"


def test_no_names_mean_the_queues_without_handlers(configure):
    own = {"mail": {}, "orders": {"HANDLER": "a.b"}, "other": {"HANDLER": None}}
    configure({"URL": URL}, names=[], queues=own, defaults={"URL": URL})
    assert {alias: conf.queue_config(alias).tasks for alias in conf.aliases()} == {
        "mail": "default",
        "orders": "",
        "other": "default",
    }


@pytest.mark.parametrize("backend", ["django_srq.tasks.backend.SRQBackend", SUBCLASS])
def test_other_names_of_the_backend_and_subclasses(configure, backend):
    configure({"URL": URL}, backend=backend)
    assert conf.aliases() == ["default"]


def test_a_subclass_before_the_apps_are_loaded():
    """It is not imported then, unless Django has imported it for a task."""
    code = (
        "import sys; from django.conf import settings; "
        f"backend = {{'BACKEND': {SUBCLASS!r}, 'OPTIONS': {{'URL': 'redis://localhost'}}}}; "
        "settings.configure(INSTALLED_APPS=['django_srq'], TASKS={'default': backend}); "
        "from django_srq import conf; before = conf.aliases(); conf.reset(); "
        "from django.tasks import task_backends; task_backends['default']; between = conf.aliases(); "
        "import django; django.setup(); print(before, between, conf.aliases())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[] ['default'] ['default']\n", done.stderr


@pytest.mark.parametrize(
    "backend",
    [
        "django.tasks.backends.dummy.DummyBackend",
        "django_srq.tasks.DummyBackend",
        "does.not.exist",
        "tests.support.breaks_on_import.Backend",
        "tests.support.leaves_on_import.Backend",
        "os.path",
        "",
        None,
        5,
    ],
)
def test_other_backends_make_no_queues(configure, backend):
    configure({"URL": URL}, backend=backend)
    assert conf.aliases() == []


@pytest.mark.parametrize("written", [None, 5, {"default": None}, {"default": {}}, {5: {"BACKEND": OURS}}], ids=str)
def test_settings_that_are_no_tasks(settings, written):
    settings.SRQ_QUEUES, settings.SRQ_DEFAULTS, settings.TASKS = {}, {}, written
    assert conf.aliases() == []
    assert texts() == []


def test_without_a_server(configure):
    for options in (None, {}):
        configure(options)
        (text,) = texts()
        assert text.startswith("TASKS['default']['OPTIONS'] has neither URL nor CACHE.")
        with pytest.raises(ConfigurationError, match=r"TASKS\['default'\]\['OPTIONS'\] has neither URL nor CACHE"):
            queues["default"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"RESULT_TL": 5},
            "TASKS['default']['OPTIONS'] has the unknown option 'RESULT_TL'. Did you mean 'RESULT_TTL'?",
        ),
        ({"HANDLER": "a.b"}, "TASKS['default']['OPTIONS'] has the unknown option 'HANDLER'."),
        ({"RESULT_TTL": -1}, "TASKS['default']['OPTIONS']['RESULT_TTL'] must be a number of seconds from 0 on"),
        ({"RESULT_TTL": None}, "TASKS['default']['OPTIONS']['RESULT_TTL'] must be a number of seconds from 0 on"),
        ({"RESULT_MOST": 0}, "TASKS['default']['OPTIONS']['RESULT_MOST'] must be a whole number above 0"),
        ({"ON_COMMIT": None}, "TASKS['default']['OPTIONS']['ON_COMMIT'] must be True, False, an alias of DATABASES"),
        ({"ON_COMMIT": [5]}, "TASKS['default']['OPTIONS']['ON_COMMIT'] must be True, False, an alias of DATABASES"),
        ({"LEASE": 0}, "TASKS['default']['OPTIONS']['LEASE'] must be a number of seconds above 0"),
        ({"URL": 5}, "TASKS['default']['OPTIONS']['URL'] must be a string, not int."),
        ({"PREFIX": "a b"}, "TASKS['default']['OPTIONS']['PREFIX'] must be 1 to 200 characters"),
        ([5], "TASKS['default']['OPTIONS'] must be a dict of options, not list."),
    ],
    ids=str,
)
def test_wrong_options(configure, options, text):
    configure({"URL": URL, **options} if isinstance(options, dict) else options, names=["a", "b"])
    found = checks.run_checks(tags=["django_srq"])
    # Once, although it is wrong for both queues.
    assert [text in f"{message.msg} {message.hint}" for message in found if message.is_serious()] == [True]


def test_options_of_results_are_not_for_other_queues(configure):
    configure({"URL": URL}, queues={"mail": {"URL": URL, "RESULT_TTL": 5}}, defaults={"ON_COMMIT": True})
    assert any("SRQ_QUEUES['mail'] has the unknown option 'RESULT_TTL'" in text for text in texts())
    assert any("SRQ_DEFAULTS has the unknown option 'ON_COMMIT'" in text for text in texts())


def test_queues_that_would_share_their_keys(configure):
    configure({"URL": URL, "PREFIX": "same"}, names=["a", "b"])
    (text,) = texts()
    assert text.startswith("The queue 'b' of TASKS['default'] and the queue 'a' have the same server and PREFIX.")


def test_changes_of_the_setting_are_noticed(configure):
    configure({"URL": URL})
    assert list(queues) == ["default"]
    with override_settings(TASKS={"default": {"BACKEND": OURS, "QUEUES": ["mail"], "OPTIONS": {"URL": URL}}}):
        assert list(queues) == ["mail"]
        with pytest.raises(UnknownQueue, match="Known: mail"):
            queues["default"]
    assert list(queues) == ["default"]


def test_checks_for_deployment_name_them(configure):
    configure({"URL": "embedded://"})
    found = {
        message.id: message.msg for message in checks.run_checks(tags=["django_srq"], include_deployment_checks=True)
    }
    assert found["django_srq.W005"].startswith("The queue 'default' of TASKS['default'] is on an embedded server")
    configure({"URL": URL, "SERIALIZER": "json"})
    found = {
        message.id: message.msg for message in checks.run_checks(tags=["django_srq"], include_deployment_checks=True)
    }
    assert found["django_srq.W007"] == "The PREFIX of these queues is their alias: default."
    configure({"URL": URL, "PREFIX": "site.{alias}"})
    assert "django_srq.W007" not in {
        message.id for message in checks.run_checks(tags=["django_srq"], include_deployment_checks=True)
    }


def test_a_package_that_is_missing_is_named_with_the_option(configure, monkeypatch):
    monkeypatch.setattr(conf, "find_spec", lambda name: None)
    configure({"URL": "embedded://"})
    with pytest.raises(
        ConfigurationError, match=r"TASKS\['default'\]\['OPTIONS'\]\['URL'\]: embedded:// needs the package"
    ):
        conf.queue_config("default").require_packages()
