"""Alias to queue, driven by the settings: ``queues["orders"]``, ``default_queue``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from threading import local
from typing import Any, cast

from django.conf import settings
from django.core.signals import setting_changed
from django.db import transaction
from django.utils import timezone
from django.utils.connection import BaseConnectionHandler, ConnectionProxy

from django_srq import conf
from django_srq.conf import DEFAULT_ALIAS, QueueConfig
from django_srq.exceptions import OutcomeUnknown, SRQError, UnknownQueue, shown
from django_srq.queue import arguments, instrumentation
from django_srq.queue.instrumentation import Puts
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.transport.clients import client_from_url, is_embedded
from django_srq.transport.link import Link, close_all, embedded_link, shared


class Queue(SafeRedisQueue):
    """A queue of the settings: a ``SafeRedisQueue`` with its configuration and ``put_on_commit``."""

    def __init__(self, config: QueueConfig) -> None:
        super().__init__(
            name=config.prefix,
            alias=config.alias,
            link=link_to(config),
            autoclean_interval=config.autoclean_interval,
            serializer=config.load_serializer(),
            max_deliveries=config.max_deliveries,
            max_crashes=config.max_crashes,
            max_length=config.max_length,
            max_payload_bytes=config.max_payload_bytes,
            max_in_flight=config.max_in_flight,
            rate=config.rate,
            backoff=config.backoff,
            put_timeout=config.put_timeout,
            unique_for=config.unique_for,
        )
        self.config = config

    @property
    def time_zone(self) -> dt.tzinfo | None:  # type: ignore[override]
        """The project's time zone where it uses naive datetimes (``USE_TZ = False``); None elsewhere."""
        return None if settings.USE_TZ else timezone.get_default_timezone()

    def put_on_commit(
        self,
        item: Any,
        *,
        uid: str | None = None,
        delay: float | dt.timedelta = 0,
        eta: dt.datetime | None = None,
        priority: int = 0,
        headers: Mapping[str, str] | None = None,
        unique_for: float | dt.timedelta | None = None,
        timeout: float | None = None,
        using: str | None = None,
        robust: bool = False,
    ) -> str:
        """Put when the surrounding transaction commits (at once outside of one); return the uid at once.

        The payload is serialised at the call. A transaction that rolls back puts nothing. A process that dies between
        commit and put loses the put. ``uid``, ``delay``, ``eta``, ``priority``, ``headers``, ``unique_for`` and
        ``timeout`` are those of ``put``.

        :param item: the payload.
        :param using: the alias of the database whose transaction is meant; None: the default one.
        :param robust: log an error of the put after the commit, and let later hooks run. By default the error is raised
            to the caller of the commit; its text says that the transaction is committed, and how to put the item.
        """
        seconds = arguments.put_timeout_of(timeout, self.alias)
        watch = Puts(self.alias, "prepare", headers).begin() if instrumentation.installed else None
        headers = watch.headers if watch else headers
        chosen, calls = self.prepare(
            item, uid=uid, delay=delay, eta=eta, priority=priority, headers=headers, unique_for=unique_for
        )
        if watch:
            watch.end(calls, [chosen])
        committed = transaction.get_connection(using).in_atomic_block

        def put() -> None:
            try:
                self.send_puts(calls, [chosen], timeout=seconds)
            except SRQError as error:
                if committed:
                    error.args = (f"{error}; {_after_commit(error, self.alias, chosen)}",)
                raise

        transaction.on_commit(put, using=using, robust=robust)
        return chosen


def _after_commit(error: SRQError, alias: str, uid: str) -> str:
    """What became of the transaction and the item, when the put of ``put_on_commit`` failed."""
    place = "may be in the queue" if isinstance(error, OutcomeUnknown) else "is not in the queue"
    again = f"queues[{alias!r}].put(…, uid={uid!r})"
    what_to_do = f"put it again with {again}, which adds nothing if it is there"
    return f"the transaction is committed, but the item {place}: {what_to_do}"


def link_to(config: QueueConfig) -> Link:
    """The link of this process to the queue's server: one for all queues and threads with the same target."""
    target = config.target
    options = dict(target.options)

    def make() -> Link:
        if is_embedded(target.url):
            return embedded_link(target.url, timeout=target.timeout, base=target.base, **options)
        return Link(client_from_url(target.url, **options), timeout=target.timeout)

    return shared(target, make)


class QueueHandler(BaseConnectionHandler):  # type: ignore[type-arg]
    """The queues of ``SRQ_QUEUES``. One object per alias and thread; the connections are shared."""

    settings_name = "SRQ_QUEUES"
    exception_class = UnknownQueue

    def __init__(self) -> None:
        super().__init__()
        self._forget()

    def __getitem__(self, alias: str) -> Queue:
        try:
            return self._connections.__dict__[alias]  # type: ignore[no-any-return]  # the common case: made already
        except (KeyError, TypeError):  # TypeError: not hashable, such as a list
            pass
        if alias not in conf.aliases():
            word = alias if isinstance(alias, str) else ""
            raise UnknownQueue(f"Unknown queue {shown(alias)}. {conf.suggestion(word, conf.aliases())}")
        return super().__getitem__(alias)  # type: ignore[no-any-return]

    def __iter__(self) -> Any:
        return iter(conf.aliases())

    def __contains__(self, alias: object) -> bool:
        return alias in conf.aliases()

    @property
    def settings(self) -> dict[str, Any]:
        return dict.fromkeys(conf.aliases())

    def create_connection(self, alias: str) -> Queue:
        return Queue(conf.queue_config(alias))

    def close_all(self) -> None:
        """Close the idle connections of this process, such as at the end of a test run; the queues go on working."""
        close_all()

    def reset(self) -> None:
        """Forget settings and queues: the next access makes them anew."""
        conf.reset()
        self._forget()

    def _forget(self) -> None:
        # Not asgiref's Local: asking it costs half as much as a put, and it would make a queue for each task. A queue
        # holds no state, so one for each thread is enough.
        self._connections = local()


class _DefaultQueue(ConnectionProxy):  # type: ignore[type-arg]
    """A proxy that also has the special methods, which Python looks up on the type and not on the object."""

    def __len__(self) -> int:
        return len(self._connections[self._alias])

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return repr(self._connections[self._alias])


queues = QueueHandler()
default_queue = cast(Queue, _DefaultQueue(queues, DEFAULT_ALIAS))


def _forget_queues(*, setting: str, **_kwargs: Any) -> None:
    if setting in {*conf.SETTINGS, "TASKS", "CACHES", "BASE_DIR"}:
        queues.reset()


setting_changed.connect(_forget_queues)
