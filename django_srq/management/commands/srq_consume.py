from __future__ import annotations

import atexit
import dataclasses
import logging
import os
import sys
import threading
from collections.abc import Callable
from inspect import isawaitable
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.module_loading import autodiscover_modules

from django_srq import SafeRedisQueue, conf, queues, signals
from django_srq.consumer import (
    ConsumerOptions,
    Cut,
    Heartbeat,
    InProcessConsumer,
    StopConsuming,
    Subscription,
    Supervisor,
    adapt,
    close_connections,
    databases,
    forks,
    is_asynchronous,
    reloader,
    with_fresh_connections,
)
from django_srq.consumer.logged_errors import ErrorView
from django_srq.consumer.processes import first_process, inheritance
from django_srq.consumer.runner import Runner
from django_srq.consumer.stop_signals import StopSignals
from django_srq.management.arguments import memory, number_in
from django_srq.management.base import ERROR, UNREACHABLE, USAGE, QueueCommand
from django_srq.management.default_log import log_to_stderr
from django_srq.management.printing import Printer
from django_srq.queue.arguments import BATCH_SIZES
from django_srq.queue.item import Item
from django_srq.queue.masking import Secrets
from django_srq.registry import Queue
from django_srq.values import COUNTS, COUNTS_FROM_0, SECONDS

LEVELS = {0: logging.ERROR, 1: logging.INFO, 2: logging.INFO, 3: logging.DEBUG}  # by --verbosity


_count, _seconds = number_in(COUNTS), number_in(SECONDS)


def _patience(text: str) -> float:
    return 0.0 if text in {"0", "0s"} else _seconds(text)


def _weighted(text: str) -> tuple[str, int | None]:
    alias, equals, weight = text.rpartition("=")
    if not equals or text in conf.aliases():  # the alias itself may contain "="
        return text, None
    return alias, _count(weight)


class Command(QueueCommand):
    help = (
        "Handle the items of the named queues, in that order; without names, of every queue that has a HANDLER or is "
        "of TASKS. The items of any other named queue are printed as 'uid payload' and acked. While a server is away, "
        "or refuses the user, the command logs this and waits."
    )
    examples = ("", "orders mail --processes 4", "high=5 low=1 --threads 8", "orders --burst --processes 0")
    exit_codes = {
        0: "stopped gracefully, or nothing is left to do (--burst, --max-items)",
        75: "a running handler was cut at the end of the grace",
        130: "ended by a second Ctrl-C (SIGINT)",
        143: "ended by a second SIGTERM",
    }
    other_codes = frozenset({UNREACHABLE})  # it waits
    _called_from_command_line: bool  # BaseCommand has it
    requires_system_checks = ["django_srq"]  # fail at the start rather than at the first item

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "queues",
            nargs="*",
            metavar="queue[=weight]",
            type=_weighted,
            help="alias of a queue (default: all queues with a HANDLER, and those of TASKS); with weights, as in "
            "high=5 low=1, items are taken in that proportion",
        )
        add = parser.add_argument
        add(
            "--processes",
            type=number_in(COUNTS_FROM_0),
            default=1,
            metavar="N",
            help="child processes; 0 handles the items in this process",
        )
        add("--threads", type=_count, default=1, metavar="N", help="how many items each process handles at once")
        add(
            "--concurrency",
            type=_count,
            default=1,
            metavar="N",
            help="how many items of async handlers, or tasks, each process handles at once; --threads of the tasks "
            "may be synchronous",
        )
        add(
            "--prefetch",
            type=number_in(BATCH_SIZES),
            metavar="N",
            help="items to claim at once (default: 1, or more if all of them together take less than 5 ms)",
        )
        add("--burst", action="store_true", help="exit when no item is ready")
        add("--max-items", type=_count, metavar="N", help="exit after this many items (default: no limit)")
        add(
            "--max-memory",
            type=memory,
            metavar="SIZE",
            help="restart a child process that uses more memory, between two items (default: no limit)",
        )
        add(
            "--time-limit",
            type=_seconds,
            metavar="DURATION",
            help="kill the child process of an item that takes longer, such as 90s or 5m; counts as a crash; the "
            "TIME_LIMIT of a queue holds if it is shorter (default: no limit)",
        )
        add(
            "--grace",
            type=_patience,
            default=25.0,
            metavar="DURATION",
            help="how long running handlers may take to finish after SIGTERM (default: 25); set it below the time "
            "after which the platform kills the process (docker stop: 10)",
        )
        add(
            "--heartbeat-file",
            type=Path,
            metavar="PATH",
            help="a file to touch while the consumer is healthy, for liveness probes (default: none)",
        )
        add("--autoreload", action="store_true", help="restart when the code changes; for development")

    def execute(self, *args: Any, **options: Any) -> str | None:
        self._forked = False
        # The first process of a container has to reap others, so a child handles the items. With child processes the
        # supervisor can reap. A process that calls this command from Python is never forked.
        if self._called_from_command_line and (options["autoreload"] or not options["processes"]):
            self._forked = first_process.go_on_in_child()  # before the checks, which import the handlers
        if options["autoreload"]:
            options["skip_checks"] = True  # they import the handlers; the consumer makes them
        return super().execute(*args, **options)

    def handle(self, **options: Any) -> None:
        if options["autoreload"]:
            for alias, _ in options["queues"]:
                if alias not in conf.aliases():
                    self.queue(alias)  # raises
            reloader.run()
        parallel, chosen = options["concurrency"] > 1, self._chosen(options["queues"])
        if any(queue.config.tasks for queue, _ in chosen):
            autodiscover_modules("tasks")  # once, and not in each child
        subscriptions = [self._subscription(queue, weight, parallel) for queue, weight in chosen]
        if parallel and not any(subscription.asynchronous for subscription in subscriptions):
            self.stderr.write("--concurrency has no effect: no handler is an async def. Use --threads.")
        log_to_stderr(LEVELS[options["verbosity"]], no_color=options["no_color"], force_color=options["force_color"])
        reloader.end_with_watcher()
        if options["processes"]:
            self._supervise(subscriptions, _consumer_options(options), options["heartbeat_file"])
        else:
            self._consume(subscriptions, _consumer_options(options), options["heartbeat_file"])

    def _supervise(self, subscriptions: list[Subscription], options: ConsumerOptions, heartbeat: Path | None) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise CommandError("Child processes need the main thread: call the command there, or with --processes 0.")
        if heartbeat:
            _touch(heartbeat)
        queues.close_all()  # a fork must not inherit connections that are open already
        supervisor = Supervisor(
            subscriptions,
            options,
            on_idle=close_connections,
            before_fork=inheritance.close_all,
            heartbeat=Heartbeat(heartbeat) if heartbeat else None,
        )
        code = supervisor.run()
        if supervisor.failure:
            raise CommandError(supervisor.failure, returncode=ERROR)
        if code:
            sys.exit(code)

    def _consume(self, subscriptions: list[Subscription], options: ConsumerOptions, heartbeat: Path | None) -> None:
        if options.max_memory or options.time_limit or heartbeat:
            raise CommandError(
                "--max-memory, --time-limit and --heartbeat-file need child processes.", returncode=USAGE
            )
        for subscription in subscriptions:
            if subscription.time_limit:
                self.stderr.write(f"{subscription.queue.alias}: TIME_LIMIT has no effect with --processes 0.")
        consumer = InProcessConsumer(subscriptions, options=options, on_idle=close_connections)
        stop_signals, code = StopSignals(consumer.stop), ERROR
        try:
            with stop_signals:
                self._run(consumer)
            code = 0
        except StopConsuming as error:
            raise CommandError(str(error), returncode=ERROR) from error
        except Cut:
            code = stop_signals.exit_code
            sys.exit(code)
        finally:
            if consumer.log_hangs:  # Python would wait for the log handler before it ends
                atexit.register(os._exit, code)

    def _run(self, consumer: InProcessConsumer) -> None:
        if self._forked:
            signals.send(signals.child_started, SafeRedisQueue, consumer=consumer.id)
        with databases.preserve_open_connections():
            consumer.run()

    def _chosen(self, named: list[tuple[str, int | None]]) -> list[tuple[Queue, int | None]]:
        if named:
            return [(self.queue(alias), weight) for alias, weight in dict(named).items()]
        chosen = [
            self.queue(alias)
            for alias in conf.aliases()
            if (config := conf.queue_config(alias)).handler or config.tasks
        ]
        if not chosen:
            known = ", ".join(conf.aliases()) or "none"
            raise CommandError(
                f"No queue has a HANDLER. Name the queues whose items are to be printed (known: {known}).",
                returncode=USAGE,
            )
        return [(queue, None) for queue in chosen]

    def _subscription(self, queue: Queue, weight: int | None, parallel: bool) -> Subscription:
        queue.config.require_packages()
        if queue.config.tasks:
            return self._subscription_of_tasks(queue, weight, parallel)
        handler = queue.config.load_handler()
        if handler is None:
            self.stderr.write(f"{queue.alias} has no HANDLER: its items are printed and acked.")
        # With a concurrency of 1, async handlers share the threads of the others: the queues' order holds for all.
        asynchronous = parallel and handler is not None and is_asynchronous(handler)
        return Subscription(
            queue,
            self._handle(handler, queue.config.handler_batch),
            lease=queue.config.lease,
            backoff=queue.backoff,
            weight=weight,
            batch=queue.config.handler_batch if handler else 1,
            time_limit=queue.config.time_limit,
            asynchronous=asynchronous,
            errors=ErrorView(queue.config.log_messages, Secrets(conf.load().admin.redact)),
            handler=queue.config.handler or "",
        )

    def _subscription_of_tasks(self, queue: Queue, weight: int | None, parallel: bool) -> Subscription:
        from django_srq.tasks.runner import TaskRunner  # it needs Django 6

        runner = TaskRunner(queue)
        return Subscription(
            queue,
            self._run_task(runner),
            lease=queue.config.lease,
            backoff=queue.backoff,
            weight=weight,
            time_limit=queue.config.time_limit,
            asynchronous=parallel,
            errors=ErrorView(queue.config.log_messages, Secrets(conf.load().admin.redact)),
            runner=runner,
        )

    def _run_task(self, runner: Runner) -> Callable[[Any], Any]:
        """The ``handle`` of a subscription of tasks. An awaitable is awaited on the event loop of the process."""
        run = with_fresh_connections(forks.end_in_forks(runner.run, asynchronous=False))
        awaited = forks.end_in_forks(lambda awaitable: awaitable, asynchronous=True)

        def handle(item: Item) -> Any:
            value = run(item)
            return awaited(value) if isawaitable(value) else value

        return handle

    def _handle(self, handler: Callable[..., Any] | None, batch: int) -> Callable[[Any], Any]:
        """The ``handle`` of a subscription."""
        if handler is None:
            return Printer(self.stdout).print
        handler = forks.end_in_forks(handler, asynchronous=is_asynchronous(handler))
        handle = adapt(handler, on_loop=True, batch=batch > 1)
        return handle if is_asynchronous(handler) else with_fresh_connections(handle)


def _touch(heartbeat: Path) -> None:
    """Fail at the start rather than at the first probe."""
    try:
        heartbeat.touch()
    except OSError as error:
        raise CommandError(f"--heartbeat-file: {error}", returncode=ERROR) from error


def _consumer_options(options: dict[str, Any]) -> ConsumerOptions:
    return ConsumerOptions(**{field.name: options[field.name] for field in dataclasses.fields(ConsumerOptions)})
