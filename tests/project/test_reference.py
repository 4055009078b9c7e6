"""Compares the reference (``docs/reference``) with the code: its tables and lists are complete and correct.

Elsewhere: the keys (``test_docs.py``), the metrics (``tests/status/test_endpoints.py``), the rights
(``tests/operations/test_script_rights.py``), and the JSON of the commands and of items (``tests/commands``).
"""

from __future__ import annotations

import ast
import inspect
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import django
import pytest
from django.core.management import BaseCommand
from django.dispatch import Signal
from django.urls import reverse

import django_srq
from django_srq import Discard, Reject, RetryLater, SafeRedisQueue, SRQError, conf, notation, queues, signals, status
from django_srq import checks as system_checks
from django_srq import testing as testing_kit
from django_srq import urls as machine_urls
from django_srq.admin.urls import urls as admin_urls
from django_srq.conf import Problem, QueueConfig
from django_srq.consumer import InProcessConsumer, Subscription, adapt
from django_srq.consumer.processes import postmortem
from django_srq.consumer.worker import events
from django_srq.models import QueueStatus
from django_srq.queue import Backoff, Rate
from django_srq.registry import Queue, QueueHandler
from django_srq.status import prometheus, verdicts
from tests.admin.test_admin import visitor
from tests.commands.test_help import NAMES, parser_of
from tests.support.project import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.versions

REFERENCE = ROOT / "docs" / "reference"
PACKAGE = Path(django_srq.__file__).parent


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text("utf-8")


def section(text: str, heading: str) -> str:
    """The text below a heading, up to the next one of the same or a higher level, without code."""
    level = heading.partition(" ")[0]
    rest = re.sub(r"^```.*?^```$", "", f"\n{text}".split(f"\n{heading}\n")[1], flags=re.MULTILINE | re.DOTALL)
    return re.split(rf"^#{{1,{len(level)}}} ", rest, flags=re.MULTILINE)[0]


def rows(text: str) -> Iterator[list[str]]:
    """The rows of the tables in a text, without their heads."""
    for table in re.findall(r"^(?:\|.*\n)+", f"{text}\n", re.MULTILINE):
        for line in table.splitlines()[2:]:
            yield [cell.strip() for cell in line.strip("|").split("|")]


def code_in(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def generated(name: str) -> list[tuple[str, str]]:
    """What a page takes from docstrings: the directive and its object, without the package."""
    found = re.findall(r"^\.\. auto(\w+):: (?:django_srq\.)?([\w.]+)", page(name), re.MULTILINE)
    return [(kind, named) for kind, named in found]


# -- settings


def options_of(text: str) -> dict[str, tuple[str, str]]:
    """The type and the default of each option."""
    found = re.findall(r"^#+ `([A-Z_]+)`\n\n\*\*([^*]+)\*\*, (?:default:? )?(.+)$", text, re.MULTILINE)
    return {name: (kind, default) for name, kind, default in found}


def queue_options() -> dict[str, tuple[str, str]]:
    return options_of(section(page("settings"), "## Options of a queue"))


def admin_options() -> dict[str, tuple[str, str]]:
    return options_of(section(page("settings"), "## Options of the status view"))


def literal(shown: str) -> Any:
    return ast.literal_eval(shown.strip("`"))


def test_the_settings():
    named = [code_in(row[0])[0] for row in rows(page("settings").partition("## Notation")[0])]
    assert named == [*conf.SETTINGS, "SRQ_TEST_GUARD"]
    source = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    assert set(re.findall(r"\bSRQ_[A-Z]+(?:_[A-Z]+)*", source)) == set(named)


def test_the_options_of_queues_and_their_defaults():
    documented = queue_options()
    assert set(documented) == set(conf._OPTIONS)
    config = {field.name.upper(): field for field in fields(QueueConfig)}
    special = {
        "URL": "no default",
        "CACHE": "no default",
        "PREFIX": "the alias",
        "OPTIONS": "`{}`",
        "TIMEOUT": "`5`",
        "PUT_TIMEOUT": "`2`, or `TIMEOUT` if that is less",
    }
    for name, (_, default) in documented.items():
        if name in special:
            assert default == special[name]
        elif name == "BACKOFF":
            assert Backoff(**literal(default)) == Backoff()
        else:
            assert literal(default) == config[name].default, name


def test_the_default_time_limits(settings):
    settings.SRQ_QUEUES = {"orders": {"URL": "redis://localhost"}}
    config = conf.queue_config("orders")
    assert (config.target.timeout, config.put_timeout, config.target.options) == (5, None, ())
    assert SafeRedisQueue(name="orders").link.timeout == 5


def test_the_options_of_the_status_view_and_their_defaults():
    documented = admin_options()
    assert list(documented) == list(conf._ADMIN_OPTIONS)
    defaults = conf.AdminConfig()
    for name, (_, default) in documented.items():
        expected = getattr(defaults, name.lower())
        assert literal(default) == (list(expected) if isinstance(expected, tuple) else expected), name


# Values that an option of a type takes, and values that it refuses.
TYPES: dict[str, tuple[list[Any], list[Any]]] = {
    "str": (["x.y"], [1, "", True]),
    "bool": ([True, False], [1, "yes"]),
    "integer": ([1, 7], [0, 1.5, "5m", True]),
    "duration": ([1, 0.5, "90s", "1h30m"], [0, "x", "10/s", True]),
    "size": ([1, "512KB", "1GB"], [0, "x", 1.5]),
    "rate": (["10/s", "3/10s"], [10, "x", "5m"]),
    "dict": ([{}], [1, "x", [1]]),
    "list of str": ([["a"], []], ["a", [1]]),
}


@pytest.mark.parametrize(
    ("readers", "documented"), [(conf._OPTIONS, queue_options()), (conf._ADMIN_OPTIONS, admin_options())]
)
def test_the_types_of_the_options(readers: dict[str, Callable[[Any], Any]], documented: dict[str, tuple[str, str]]):
    for name, (kind, _) in documented.items():
        right, wrong = TYPES[kind.removesuffix(" or None")]
        for value in right + ([None] if kind.endswith(" or None") else []):
            readers[name](value)
        for value in wrong + ([] if kind.endswith(" or None") else [None]):
            with pytest.raises(conf._Wrong):
                readers[name](value)


def test_the_notation():
    shown = {row[0]: row[2] for row in rows(section(page("settings"), "## Notation"))}
    texts = {kind: [text.strip('"') for text in code_in(cell) if text.startswith('"')] for kind, cell in shown.items()}
    assert [notation.seconds_in(text) for text in texts["duration"]] == [90, 300, 7200, 7 * 86400, 7 * 86400, 5400]
    assert [notation.bytes_in(text) for text in texts["size"]] == [512 << 10, 200 << 20, 1 << 30]
    assert [notation.rate_in(text) for text in texts["rate"]] == [(10, 1), (10, 60), (10, 3600), (3, 10), (100, 86400)]
    units = [text for text in code_in(shown["duration"]) if text.isalpha()]
    assert {"s", "m", "h", "d", "w", *units} == set(notation._SECONDS_IN_DURATIONS)


def test_the_options_of_redis_py_without_effect():
    (named,) = re.findall(r"have no effect here: (.*?)\.$", page("settings"), re.MULTILINE | re.DOTALL)
    assert code_in(named) == list(conf.WITHOUT_EFFECT)


# -- the queue


PARTS = {
    "SafeRedisQueue": SafeRedisQueue,
    "registry.Queue": Queue,
    "registry.QueueHandler": QueueHandler,
    "queue.Backoff": Backoff,
    "queue.Rate": Rate,
    "Item": django_srq.Item,
}
# For this package itself, and for the methods of the page: they are no part of the reference.
INTERNAL = {"prepare", "send_puts", "claim", "snapshot"}


def documented_methods() -> list[str]:
    return [
        named.rpartition(".")[2] for kind, named in generated("queue") if kind == "method" and ".Queue" not in named
    ]


def test_all_methods_of_the_queue_are_described():
    public = [
        name
        for name, member in vars(SafeRedisQueue).items()
        if inspect.isroutine(member) and (not name.startswith("_") or name in ("__len__", "__bool__"))
    ]
    twins = {name for name in public if name[0] == "a" and name[1:] in public}
    assert set(documented_methods()) == set(public) - twins - INTERNAL
    assert len(documented_methods()) == len(set(documented_methods()))


def test_every_method_that_asks_the_server_has_a_twin():
    without = {
        name for name in documented_methods() if not name.startswith("__") and not hasattr(SafeRedisQueue, f"a{name}")
    }
    assert without == {"push", "pop"}


def test_all_attributes_of_an_item_are_described():
    (named,) = re.findall(r"autoclass:: django_srq\.Item\(\)\n   :members: (.+)", page("queue"))
    public = {name for name, member in vars(django_srq.Item).items() if isinstance(member, property)}
    assert set(named.split(", ")) == public


def described(name: str, function: Callable[..., Any]) -> list[str]:
    """The parameters that the docstring does not name, and those that it names and that do not exist."""
    doc = inspect.getdoc(function) or ""
    parameters = set(inspect.signature(function).parameters) - {"self", "cls"}
    told = set(re.findall(r"^:param (\w+):", doc, re.MULTILINE))
    missing = {parameter for parameter in parameters - told if f"``{parameter}``" not in doc}
    return [f"{name}: {parameter}" for parameter in sorted(missing | (told - parameters))]


def test_the_docstrings_describe_every_parameter():
    kit = [named for name in ("queue", "testing", "exceptions") for _, named in generated(name)]
    wrong = []
    for named in kit:
        owner, _, method = named.rpartition(".")
        found = PARTS.get(named) or getattr(PARTS.get(owner), method, None) or getattr(testing_kit, method, None)
        found = found or getattr(django_srq, named)
        assert inspect.getdoc(found), named
        is_own = inspect.isroutine(found) or "__init__" in vars(found)
        # A fixture has no parameters, and a user makes none of the others.
        if is_own and named not in ("SRQError", "DuplicateItem"):
            wrong += described(named, found)
    assert wrong == []


# -- exceptions


def test_all_exceptions_are_described():
    public = {name: getattr(django_srq, name) for name in django_srq.__all__}
    kinds = [name for name, kind in public.items() if isinstance(kind, type) and issubclass(kind, Exception)]
    errors, for_handlers = page("exceptions").split("\n## For handlers\n")
    named = re.compile(r"^\.\. autoexception:: (\w+)(?:\(\))?\n   :show-inheritance:", re.MULTILINE)
    assert set(named.findall(errors)) == {name for name in kinds if issubclass(public[name], SRQError)}
    assert set(named.findall(for_handlers)) == {name for name in kinds if not issubclass(public[name], SRQError)}
    assert {name for name in kinds if not issubclass(public[name], SRQError)} == {"RetryLater", "Discard", "Reject"}
    for name in kinds:
        assert public[name].__doc__


# -- checks


def check_rows() -> dict[str, str]:
    return {code_in(row[0])[0].removeprefix("django_srq."): row[1] for row in rows(page("checks"))}


def test_all_checks_are_described_and_their_ids_are_unique():
    source = "".join((PACKAGE / name).read_text("utf-8") for name in ("conf.py", "checks.py"))
    assert sorted(check_rows()) == sorted(set(re.findall(r"django_srq\.([EW]\d{3})", source)))
    assert len(check_rows()) == len(list(rows(page("checks"))))


def ids_in(function: Callable[..., Any]) -> set[str]:
    """The ids of the checks whose problems a function of ``conf`` finds."""
    return set(re.findall(r"django_srq\.([EW]\d{3})", inspect.getsource(function)))


def test_the_levels_of_the_checks():
    named = re.findall(r"conf\.(\w+)\(\)", inspect.getsource(system_checks.check_deployment))
    deploy = set().union(*(ids_in(getattr(conf, name)) for name in named))
    here = ids_in(conf.import_problems) - {"E009"} | ids_in(conf.missing_packages)
    for id_, level in check_rows().items():
        expected = "error" if id_.startswith("E") else "warning"
        if id_ in deploy:
            expected = "warning with `--deploy`"
        elif id_ in here:
            expected = "warning; error in `srq_consume`"
            assert type(system_checks._message(Problem(f"django_srq.{id_}", "", warning=True))).__name__ == "Warning"
        assert level == expected, id_


# -- commands


def test_all_commands_are_described():
    text = page("commands")
    assert sorted(code_in(row[0])[0] for row in rows(text.partition("## In common")[0])) == NAMES
    assert sorted(re.findall(r"^## (srq_\w+)\n\n```\{command-help\} \1\n```$", text, re.MULTILINE)) == NAMES


def own_options(command: str) -> set[str]:
    """The options of a command besides those that all commands of Django have."""
    general = {action.dest for action in BaseCommand().create_parser("manage.py", "x")._actions}
    actions = [action for action in parser_of(command)._actions if action.dest not in general]
    return {option for action in actions for option in action.option_strings}


def test_the_options_of_srq_consume():
    """The table has all of them, and nothing else."""
    documented = {name for row in rows(section(page("commands"), "## srq_consume")) for name in code_in(row[0])}
    assert {name for name in documented if name.startswith("--")} == own_options("srq_consume")


def test_the_options_that_the_page_names_exist():
    known = set().union(*map(own_options, NAMES)) | {"--verbosity", "--traceback", "--no-color", "--help"}
    assert set(re.findall(r"--[a-z][a-z-]+", page("commands"))) - known == set()


def test_the_commands_that_can_be_asked_for_all_queues():
    source = {name: (PACKAGE / "management" / "commands" / f"{name}.py").read_text("utf-8") for name in NAMES}
    asking = {name for name, text in source.items() if "(BulkCommand)" in text}
    (named,) = re.findall(r"^(`srq_\w+`.*?) count the items", page("commands"), re.MULTILINE)
    assert set(code_in(named)) == asking == {name for name in NAMES if "--no-input" in own_options(name)}


# -- signals


def test_the_signals_and_their_arguments(project):
    """On real processes, which handle, fail and lose items."""
    project.configure(
        {"told": {"HANDLER": "tests.support.handlers.told", "BACKOFF": {"base": 1000}}},
        dict(project.settings.SRQ_DEFAULTS),
    )
    project.add_to_settings(
        "import json\nfrom django.dispatch import Signal\nfrom django_srq import signals\n"
        "from tests.support.handlers import _say\n"
        "def listen(name, signal):\n"
        "    def receive(sender, **about):\n"
        "        _say(json.dumps([name, sorted(about)]))\n"
        "    signal.connect(receive, weak=False)\n"
        "for name, signal in vars(signals).items():\n"
        "    if isinstance(signal, Signal):\n        listen(name, signal)\n"
    )
    queue = queues["told"]
    for deed in ("nothing", "retry", "reject", "SIGKILL"):
        queue.put({"do": deed, "delay": 1000})
    process = project.start("srq_consume", "told")
    found = partial(_heard, project)
    wait_for(lambda: {"item_acked", "item_failed", "item_recovered", "item_dead"} <= set(found()), "the signals")
    process.terminate()
    assert process.wait(60) == 0
    heard = found()
    heard["item_put"] = _arguments(signals.item_put, lambda: queue.put({"do": "nothing"}))
    heard["queue_paused"] = _arguments(signals.queue_paused, queue.pause)
    assert heard == {name: arguments | {"signal"} for name, arguments in documented_signals().items()}
    assert set(heard) == {name for name, signal in vars(signals).items() if isinstance(signal, Signal)}


def documented_signals() -> dict[str, set[str]]:
    """The arguments of each signal besides the sender, from the table in the docstring, which the page shows."""
    assert ".. automodule:: django_srq.signals" in page("signals")
    table = (signals.__doc__ or "").split("\n\n")[2].splitlines()[3:-1]
    documented: dict[str, set[str]] = {}
    for line in table:
        name = line[:18].strip() or name  # noqa: F821 (a row that goes on)
        documented.setdefault(name, set()).update(re.findall(r"``(\w+)``", line[18:62]))
    for name, arguments in documented.items():
        if name not in ("child_started", "consumer_started", "consumer_stopped"):
            arguments.add("queue")
    return documented


def _heard(project: Any) -> dict[str, set[str]]:
    return {name: set(arguments) for name, arguments in map(json.loads, filter(_is_json, project.lines()))}


def _is_json(line: str) -> bool:
    return line.startswith("[")


def _arguments(signal: Signal, act: Callable[[], object]) -> set[str]:
    """The arguments with which a call sends a signal."""
    received: list[set[str]] = []

    def receive(sender: type, **about: object) -> None:
        received.append(set(about))

    signal.connect(receive)
    try:
        act()
    finally:
        signal.disconnect(receive)
    return received[0]


# -- the log


def templates() -> dict[str, int]:
    """The template of each record that tells of the end of a delivery, with its level."""
    endings = [ending for ending in vars(events).values() if isinstance(ending, events._Ending)]
    return {
        events._ACKED: logging.INFO,
        events._DISCARDED: logging.WARNING,
        events._BURIED: logging.ERROR,
        **{ending.template: ending.level for ending in endings},
        **{template: level for level, template in postmortem._WORDS.values()},
    }


def test_the_words_and_levels_of_the_records_about_items():
    tables = list(rows(section(page("logging"), "## Records about items")))
    documented = {row[0]: row[1] for row in tables if row[1].isupper()}
    found = {template.partition(" queue=")[0]: logging.getLevelName(level) for template, level in templates().items()}
    source = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    others = re.findall(r'(?:logger\.(\w+)\(|logging\.(\w+),) ?"([a-z][a-z ,]+) queue=%s uid=%s', source)
    assert documented == {**{words: (called or level).upper() for called, level, words in others}, **found}


def test_the_fields_of_the_records_about_items(queue, caplog):
    """The handlers succeed, fail and give up."""
    errors = [None, LookupError("no"), RetryLater(1000, "later"), Discard("old"), Reject("never")]

    def handle(payload: bytes) -> None:
        if error := errors[int(payload)]:
            raise error

    queue.put_many(range(len(errors)))
    caplog.set_level("DEBUG", "django_srq.consumer")
    InProcessConsumer([Subscription(queue, adapt(handle), backoff=Backoff(base=1000))], burst=True).run()
    usual = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
    records = [record for record in caplog.records if hasattr(record, "outcome")]
    assert len(records) == len(errors)
    documented = {
        code_in(row[0])[0]: row[1] for row in rows(section(page("logging"), "## Records about items")) if "`" in row[0]
    }
    types = {"str": str, "int": int, "float": float, "None": type(None)}
    for record in records:
        own = {name: value for name, value in vars(record).items() if name not in usual}
        assert set(own) == set(documented)
        for name, value in own.items():
            assert isinstance(value, tuple(types[kind] for kind in documented[name].split(" or "))), name
    outcomes = {record.outcome for record in records}
    (row,) = [row for row in rows(page("logging")) if row[0] == "`outcome`"]
    assert set(code_in(row[2])) == outcomes


def test_all_loggers_are_described():
    documented = {code_in(row[0])[0] for row in rows(page("logging").partition("## Records about items")[0])}
    source = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    assert documented == set(re.findall(r'(?:getLogger|guarded)\("(django_srq\.\w+)"', source))


# -- status.json


def documented_fields(heading: str | None) -> dict[str, str]:
    """Each field with its type."""
    text = page("status-json").partition("These are all kinds")[0]
    part = section(text, heading) if heading else text.partition("\n## ")[0]
    return {name: row[1] for row in rows(part) for name in code_in(row[0])}


TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
OF_TYPE: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "time": lambda value: isinstance(value, str) and TIME.fullmatch(value) is not None,
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def fits(value: Any, kind: str) -> bool:
    if kind.startswith("list of"):
        return isinstance(value, list)
    if "`" in kind:
        return value in code_in(kind)
    return any(OF_TYPE[part](value) for part in kind.split(" or "))


@pytest.fixture
def snapshot(settings, server_url, prefix, dead_port) -> dict[str, Any]:
    """Of a queue with items in all states, a paused one, a misconfigured one, and one whose server is away."""
    defaults = {"HANDLER": "tests.support.handlers.note", "MAX_DELIVERIES": 2}
    settings.SRQ_DEFAULTS = defaults
    settings.SRQ_ADMIN = {"TIMEOUT": 10}
    settings.SRQ_QUEUES = {
        "orders": {"URL": server_url, "PREFIX": f"{prefix}.orders"},
        "mail": {"URL": server_url, "PREFIX": f"{prefix}.mail"},
        "away": {"URL": f"redis://127.0.0.1:{dead_port}"},
        "wrong": {"URL": server_url, "LEASE": "x"},
    }
    of_tasks = {"URL": server_url, "PREFIX": f"{prefix}.{{alias}}"}
    backend = "django_srq.tasks.SRQBackend"
    settings.TASKS = {"default": {"BACKEND": backend, "QUEUES": ["reports"], "OPTIONS": of_tasks}}
    orders = queues["orders"]
    orders.put_many(range(4))
    orders.fail(orders.get(), Reject())
    orders.fail(orders.get(), LookupError("no"), delay=1000)
    orders.ack(orders.get())
    queues["mail"].pause("stock-taking", by="anna")
    return json.loads(json.dumps(status.snapshot().to_dict()))


@pytest.mark.parametrize(
    ("heading", "place"),
    [(None, None), ("## Queues", "queues"), ("## Servers", "servers"), ("## Findings", "findings")],
)
def test_the_fields_of_status_json(snapshot, heading, place):
    documented = documented_fields(heading)
    objects = [snapshot] if place is None else snapshot[place]
    assert objects
    for found in objects:
        assert list(found) == [name for name in documented if name in found]
        assert set(found) == set(documented)
        for name, kind in documented.items():
            assert fits(found[name], kind), (name, found[name], kind)
    # "done" is of queues of tasks, which need Django 6.0.
    always_null = {"memory_limit"} if django.VERSION >= (6, 0) else {"memory_limit", "done"}
    for name, kind in documented.items():  # no field could have a narrower type
        if kind.endswith(" or null"):
            assert any(found[name] is not None for found in objects) or name in always_null, name


def test_the_parts_of_the_fields_of_status_json(snapshot):
    text = dict.fromkeys(code_in(section(page("status-json"), "## Queues")))
    orders, mail = snapshot["queues"][:2]
    assert list(mail["paused"]) == ["by", "reason", "since", "until"]
    assert list(orders["rates"]) == ["in", "out"]
    (named,) = re.findall(r"`totals` has .*?: (`put`.*?)\.\n", page("status-json"), re.DOTALL)
    assert code_in(named) == list(prometheus.COUNTERS)
    assert set(orders["totals"]) <= set(code_in(named))
    assert set(orders["totals"]) == {name for name, number in orders["totals"].items() if number}
    assert {*mail["paused"], *orders["rates"]} <= set(text)


def test_all_kinds_of_findings_are_described():
    table = [row for row in rows(page("status-json")) if code_in(row[0])[0] in verdicts.LEVELS and len(row) == 3]
    assert {code_in(row[0])[0]: row[1] for row in table if row[1] in verdicts.LEVEL_LABELS} == verdicts.LEVELS
    assert [code_in(row[0])[0] for row in table if row[1] in verdicts.LEVEL_LABELS] == list(verdicts.LEVELS)


# -- permissions and URLs


def test_the_permissions():
    documented = [(code_in(row[0])[0], row[1]) for row in rows(section(page("permissions"), "## Permissions"))]
    assert documented == [(name, str(label)) for name, label in QueueStatus._meta.permissions]


def test_the_pages_in_the_admin_and_their_methods(db, settings, server_url, prefix):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": prefix}}
    documented = list(rows(section(page("permissions"), "## Pages in the admin")))
    from django.contrib.admin import site

    found = {str(each.pattern): str(each.name) for each in admin_urls(site, lambda request: None)}
    prefix_of_names = "django_srq_queuestatus_"
    assert {row[0].strip("`–"): prefix_of_names + row[1].strip("`") for row in documented} == found
    browser = visitor("superuser")
    arguments = {"alias": "orders", "action": "pause"}
    for path, name, _, methods in documented:
        needed = {key: value for key, value in arguments.items() if f"<str:{key}>" in path}
        response = browser.options(reverse(f"admin:{prefix_of_names}{name.strip('`')}", kwargs=needed))
        assert response.status_code == 405
        assert response.headers["Allow"].replace("GET, HEAD", "GET") == methods


def test_the_views_for_machines(db, settings, server_url, prefix):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": prefix}}
    settings.SRQ_ADMIN = {"TIMEOUT": 10}
    documented = list(rows(section(page("permissions"), "## Views for machines")))
    names = {code_in(row[0])[0]: code_in(row[1])[0] for row in documented}
    assert names == {str(each.pattern): f"{machine_urls.app_name}:{each.name}" for each in machine_urls.urlpatterns}
    browser = visitor("superuser")
    for row in documented:
        assert row[3].startswith(str(browser.get(reverse(code_in(row[1])[0])).status_code))


# -- the testing kit


def test_all_of_the_testing_kit_is_described():
    def is_public(name: str, value: Any) -> bool:
        own = getattr(value, "__module__", "") == testing_kit.__name__ or hasattr(value, "_get_wrapped_function")
        return own and not name.startswith("_")

    public = {name for name, value in vars(testing_kit).items() if is_public(name, value)}
    assert {named.removeprefix("testing.") for _, named in generated("testing")} == public
