from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import autoreload

from django_srq import SafeRedisQueue, conf, queues, signals
from django_srq.consumer import (
    ConsumerOptions,
    Cut,
    Heartbeat,
    InProcessConsumer,
    StopConsuming,
    Subscription,
    Supervisor,
    adapted,
    close_connections,
    databases,
    dispositions,
    forks,
    is_asynchronous,
    with_fresh_connections,
)
from django_srq.consumer.processes import first_process, inheritance
from django_srq.management.base import ERROR, USAGE, QueueCommand
from django_srq.operations import BATCH
from django_srq.queue.item import Item
from django_srq.registry import Queue

logger = logging.getLogger("django_srq.consumer")
LEVELS = {0: logging.ERROR, 1: logging.INFO, 2: logging.INFO, 3: logging.DEBUG}  # by --verbosity
BESIDE = "DJANGO_SRQ_BESIDE"  # environment variable: the id of the process that watches the code for this consumer
SIZES = {"": 20, "K": 10, "M": 20, "G": 30}  # powers of two; a bare number is MiB


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 on, not {text!r}")
    return int(text)


def _prefetch(text: str) -> int:
    if (number := _count(text)) > BATCH:
        raise argparse.ArgumentTypeError(f"must be at most {BATCH}, not {text!r}")
    return number


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < 10**9:
            return seconds
    raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")


def _patience(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([1-9]\d*)([KMG]?)", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a size such as 200M or 1G (a bare number is MiB), not {text!r}")
    return int(match[1]) << SIZES[match[2]]


def _weighted(text: str) -> tuple[str, int | None]:
    alias, equals, weight = text.rpartition("=")
    if not equals or text in conf.aliases():  # the alias itself may contain "="
        return text, None
    return alias, _count(weight)


class Command(QueueCommand):
    help = (
        "Handle the items of the named queues, in that order; without names, of every queue that has a HANDLER. The "
        "items of a named queue without a HANDLER are printed as 'uid payload' and acked."
    )
    _called_from_command_line: bool  # BaseCommand has it
    requires_system_checks = ["django_srq"]  # fail at the start rather than at the first item

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "queues",
            nargs="*",
            metavar="queue[=weight]",
            type=_weighted,
            help="alias of a queue; with weights, as in high=5 low=1, items are taken in that proportion",
        )
        add = parser.add_argument
        add("--processes", type=_number, default=1, help="child processes; 0 handles the items in this process")
        add("--threads", type=_count, default=1, help="how many items each process handles at once")
        add(
            "--concurrency",
            type=_count,
            default=1,
            help="how many items of async handlers each process handles at once",
        )
        add(
            "--prefetch",
            type=_prefetch,
            metavar="N",
            help="items to claim at once (default: 1, or more if all of them together take less than 5 ms)",
        )
        add("--burst", action="store_true", help="exit when no item is ready")
        add("--max-items", type=_count, help="exit after this many items")
        add(
            "--max-memory",
            type=_bytes,
            metavar="SIZE",
            help="restart a child process that uses more memory, between two items",
        )
        add(
            "--time-limit",
            type=_seconds,
            metavar="SECONDS",
            help="kill the child process of an item that takes longer; counts as a crash",
        )
        add(
            "--grace",
            type=_patience,
            default=25.0,
            metavar="SECONDS",
            help="how long running handlers may take to finish after SIGTERM (default: 25); set it below the time "
            "after which the platform kills the process (docker stop: 10)",
        )
        add(
            "--heartbeat-file",
            type=Path,
            metavar="PATH",
            help="a file to touch while the consumer is healthy, for liveness probes",
        )
        add("--autoreload", action="store_true", help="restart when the code changes; for development")

    def execute(self, *args: Any, **options: Any) -> str | None:
        self._forked = False
        # The first process of a container has to reap others, so a child handles the items. With child processes the
        # supervisor can reap. A process that calls this command from Python is never forked.
        if self._called_from_command_line and (options["autoreload"] or not options["processes"]):
            self._forked = first_process.go_on_in_child()  # before the checks, which import the handlers
        return super().execute(*args, **options)

    def handle(self, **options: Any) -> None:
        parallel = options["concurrency"] > 1
        subscriptions = [
            self._subscription(queue, weight, parallel) for queue, weight in self._chosen(options["queues"])
        ]
        _log_to_stderr(LEVELS[options["verbosity"]])
        if watching := os.environ.pop(BESIDE, ""):
            _end_with(int(watching))
        if options["autoreload"]:
            autoreload.run_with_reloader(_consume_beside)
        elif options["processes"]:
            self._supervise(subscriptions, _plan(options), options["heartbeat_file"])
        else:
            self._consume(subscriptions, _plan(options), options["heartbeat_file"])

    def _supervise(self, subscriptions: list[Subscription], plan: ConsumerOptions, heartbeat: Path | None) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise CommandError("Child processes need the main thread: call the command there, or with --processes 0.")
        if heartbeat:
            _touch(heartbeat)
        queues.close_all()  # a fork must not inherit connections that are open already
        supervisor = Supervisor(
            subscriptions,
            plan,
            rest=close_connections,
            before_fork=inheritance.close_all,
            heartbeat=Heartbeat(heartbeat) if heartbeat else None,
        )
        code = supervisor.run()
        if supervisor.last_words:
            raise CommandError(supervisor.last_words, returncode=ERROR)
        if code:
            sys.exit(code)

    def _consume(self, subscriptions: list[Subscription], plan: ConsumerOptions, heartbeat: Path | None) -> None:
        if plan.max_memory or plan.time_limit or heartbeat:
            raise CommandError(
                "--max-memory, --time-limit and --heartbeat-file need child processes.", returncode=USAGE
            )
        consumer = InProcessConsumer(subscriptions, options=plan, rest=close_connections)
        signalled: list[int] = []
        code = ERROR
        stopping = _stop_on_signals(consumer, signalled)
        try:
            if self._forked:
                signals.send(signals.child_started, SafeRedisQueue, consumer=consumer.id)
            with databases.preserve_open_connections():
                consumer.run()
            code = 0
        except StopConsuming as error:
            raise CommandError(str(error), returncode=ERROR) from error
        except Cut:
            code = 128 + signalled[-1]
            sys.exit(code)
        finally:
            for number in stopping:
                dispositions.give_back(number)
            if consumer.log_hangs:  # Python would wait for the log handler before it ends
                atexit.register(os._exit, code)

    def _chosen(self, named: list[tuple[str, int | None]]) -> list[tuple[Queue, int | None]]:
        if named:
            return [(self.queue(alias), weight) for alias, weight in dict(named).items()]
        chosen = [self.queue(alias) for alias in conf.aliases() if conf.queue_config(alias).handler]
        if not chosen:
            known = ", ".join(conf.aliases()) or "none"
            raise CommandError(
                f"No queue has a HANDLER. Name the queues whose items are to be printed (known: {known}).",
                returncode=USAGE,
            )
        return [(queue, None) for queue in chosen]

    def _subscription(self, queue: Queue, weight: int | None, parallel: bool) -> Subscription:
        handler = queue.config.load_handler()
        if handler is None:
            self.stderr.write(f"{queue.alias} has no HANDLER: its items are printed and acked.")
        # With a concurrency of 1, async handlers share the threads of the others: the queues' order holds for all.
        asynchronous = parallel and handler is not None and is_asynchronous(handler)
        return Subscription(
            queue,
            self._executor(handler, queue.config.handler_batch),
            lease=queue.config.lease,
            backoff=queue.backoff,
            weight=weight,
            batch=queue.config.handler_batch if handler else 1,
            asynchronous=asynchronous,
        )

    def _executor(self, handler: Callable[..., Any] | None, batch: int) -> Callable[[Any], Any]:
        if handler is None:
            return self._print
        handler = forks.kept_out(handler, asynchronous=is_asynchronous(handler))
        handle = adapted(handler, on_loop=True, batch=batch > 1)
        return handle if is_asynchronous(handler) else with_fresh_connections(handle)

    def _print(self, item: Item) -> None:
        # Flushed before it returns, so that the item is acked only if standard output took the line.
        try:
            line = f"{item.uid} {_shown(item.payload)}"
            self.stdout.write(_escaped(line) if self.stdout.isatty() else line)
            self.stdout.flush()
        except OSError as error:
            text = f"{error.strerror or error}. The item that could not be printed stays in the queue."
            raise StopConsuming(text) from None


def _touch(heartbeat: Path) -> None:
    """Fail at the start rather than at the first probe."""
    try:
        heartbeat.touch()
    except OSError as error:
        raise CommandError(f"--heartbeat-file: {error}", returncode=ERROR) from error


def _plan(options: dict[str, Any]) -> ConsumerOptions:
    names = (
        "processes",
        "threads",
        "concurrency",
        "prefetch",
        "burst",
        "max_items",
        "max_memory",
        "time_limit",
        "grace",
    )
    return ConsumerOptions(**{name: options[name] for name in names})


def _shown(payload: Any) -> str:
    if isinstance(payload, bytes):
        return payload.decode(errors="backslashreplace")
    return payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False, default=str)


def _escaped(text: str) -> str:
    """The text on one line, without control characters: a payload must not control the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _consume_beside() -> None:
    """Run the consumer in a process beside this one, which watches the code; Django restarts both when it changes."""
    arguments = [argument for argument in sys.argv if argument != "--autoreload"]
    # In a process group of its own: Ctrl-C does not reach it there, only one SIGTERM, so it finishes the items in hand.
    consumer = subprocess.Popen(
        [sys.executable, *_launcher(), *arguments[1:]],
        env={**os.environ, BESIDE: str(os.getpid())},
        process_group=0,
    )
    atexit.register(consumer.wait)
    atexit.register(consumer.terminate)
    if (code := consumer.wait()) > 0:
        logger.error("the consumer ended with exit code %d; it restarts when the code changes", code)
    threading.Event().wait()


def _end_with(watching: int) -> None:
    """Stop this process when the watching one is gone: at Ctrl-C Django kills that one after 0.25 s."""

    def look(number: int) -> None:
        if os.getppid() != watching:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.kill(os.getpid(), signal.SIGTERM)

    dispositions.take(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)  # a timer, because a process that forks must have no threads


def _launcher() -> list[str]:
    """How this command was started: as a script, or by python -m django."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]


def _stop_on_signals(consumer: InProcessConsumer, signalled: list[int]) -> Sequence[int]:
    """Let the item in hand finish at the first SIGTERM or SIGINT, and cut it at the second. Returns these signals."""
    if threading.current_thread() is not threading.main_thread():
        return ()  # Python lets only the main thread set handlers

    def on_signal(number: int) -> None:
        signalled.append(number)
        if len(signalled) > 1:
            raise Cut
        consumer.stop()
        if talkative:
            # Not logged: the signal may have interrupted a log call, whose buffers cannot be entered twice. And written
            # only if that does not block: the interrupted code may hold an item.
            with contextlib.suppress(OSError):
                if select.select([], [2], [], 0)[1]:
                    os.write(2, b"stopping: waiting for the running handler; a second signal stops at once\n")

    talkative = logger.isEnabledFor(logging.INFO)
    stopping = (signal.SIGTERM, signal.SIGINT)
    for number in stopping:
        dispositions.take(number, on_signal)
    return stopping


class _Formatter(logging.Formatter):
    """Makes the lines of logging.Formatter, but computes the time only once a second, and adds the milliseconds."""

    _second, _text = 0, ""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info or record.stack_info:
            return super().format(record)
        return f"{self.formatTime(record)} {record.levelname} {record.getMessage()}"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._text = second, super().formatTime(record, self.default_time_format)
        return f"{self._text},{int(record.msecs):03d}"


def _log_to_stderr(level: int) -> None:
    """Show what the consumer does even in a project that configures no logging; otherwise add no handler."""
    logger = logging.getLogger("django_srq")
    if _is_configured(logger):
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    # If the root logger gets a handler later, as from a library, no line is written twice.
    handler.addFilter(lambda record: not logging.getLogger().handlers)
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(level)


def _is_configured(logger: logging.Logger) -> bool:
    """Whether the project decides what becomes of the records: in LOGGING, by dictConfig or in code."""
    within = f"{logger.name}."
    known = [one for name, one in logging.root.manager.loggerDict.items() if name.startswith(within)]
    handled = logger.hasHandlers() or any(one.handlers for one in known if isinstance(one, logging.Logger))
    named = (name for name in (settings.LOGGING or {}).get("loggers", ()) if f"{name}.".startswith(within))
    return handled or not logger.propagate or any(named)
