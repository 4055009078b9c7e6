"""The executor of tasks: runs an item of a queue of tasks, by its runner."""

from __future__ import annotations

import contextvars
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from django_srq.consumer.databases import close_connections
from django_srq.consumer.handler import carry_out
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.runner import Exhausted, Runner, TaskTimeout, Unrunnable, Verdict
from django_srq.consumer.subscription import StopConsuming, Subscription
from django_srq.consumer.worker.events import Events
from django_srq.consumer.worker.job import FailedJob, FinishedJob, Job, Outcomes
from django_srq.exceptions import Discard
from django_srq.queue import failure
from django_srq.queue.backoff import delay_after
from django_srq.queue.instrumentation import Handling
from django_srq.queue.item import Item
from django_srq.runtime.guarded_log import guarded
from django_srq.runtime.interruption import Interruption, is_interruption

logger = guarded("django_srq.consumer")

LOOK_EVERY = 0.2  # seconds between two looks, while a task waits for its turn, whether the worker stops


class Turns:
    """Synchronous tasks that run at one time, in the threads of asynchronous ones: as many as ``--threads`` says."""

    def __init__(self, most: int, stopping: Callable[[], bool]) -> None:
        """stopping: whether the worker begins no further items."""
        self._free, self._stopping = threading.Semaphore(most), stopping

    def take(self, *, wait: bool) -> bool:
        """Take a turn, which ``end`` gives back. False: there is none; with wait: the worker stops."""
        if not wait:
            return self._free.acquire(blocking=False)
        while not self._stopping():
            if self._free.acquire(timeout=LOOK_EVERY):
                return True
        return False

    def end(self) -> None:
        try:
            # There are more threads than turns. If each kept its connections to databases, these would be too many.
            close_connections()
        finally:
            self._free.release()


class NotBegun(Exception):
    """The task was not begun, as the worker stops, or as the supervisor wants the item back."""


class TaskExecutor:
    """Runs a task with its runner. Talks to no server.

    Each attempt has a context of its own, in which the runner judges the result as well.
    """

    def __init__(self, ledger: Ledger, events: Events, turns: Turns, *, supervised: bool) -> None:
        """supervised: a supervisor ends this process when a task takes too long."""
        self._ledger, self._events, self._turns, self._supervised = ledger, events, turns, supervised
        self._warned = False  # that time limits have no effect

    def run(
        self, runner: Runner, job: Job, item: Item, handling: Handling | None, context: contextvars.Context
    ) -> Outcomes:
        """Run the task of an item that is marked as running, and say what became of it."""
        outcomes = Outcomes(job.subscription, handling=handling)
        try:
            context.run(self._attempt, runner, job, item, outcomes)
        except NotBegun:
            outcomes.released.append(job)
        except StopConsuming as error:
            outcomes.released.append(job)
            outcomes.stop = error
        return outcomes

    def _attempt(self, runner: Runner, job: Job, item: Item, outcomes: Outcomes) -> None:
        started, handling = time.monotonic(), outcomes.handling
        try:
            runner.begin(item)
            if (most := runner.max_attempts(item)) is not None:
                self._ledger.allow(job.record, most)
            self._limit(runner, job, item)
            with self._turn(runner, job, item):
                self._events.started(job, item)
                started = time.monotonic()
                run = carry_out if handling is None else partial(handling.run, carry_out)
                value = run(job.subscription.handle, item)
                outcomes.seconds = time.monotonic() - started
                outcome = runner.outcome(item, value, outcomes.seconds)
        except (NotBegun, StopConsuming):
            raise
        except BaseException as error:
            if _is_from_outside(error):
                raise
            outcomes.seconds = time.monotonic() - started
            self._failed(runner, job, item, error, outcomes)
        else:
            outcomes.finished.append(FinishedJob(job, item, outcomes.seconds, handling=handling, outcome=outcome))

    def _limit(self, runner: Runner, job: Job, item: Item) -> None:
        """Write down the task's time limit. What follows from it is decided now, as the supervisor runs no tasks."""
        limit = runner.time_limit(item)
        if limit is None:
            return
        if not self._supervised:
            if not self._warned:
                self._warned = True
                alias = job.subscription.queue.alias
                logger.warning("the timeout of a task has no effect without child processes queue=%s", alias)
            return
        verdict = _verdict(runner, job.subscription, item, TaskTimeout(limit))
        self._ledger.limit(job.record, limit, delay=-1 if verdict.bury else verdict.delay)

    @contextmanager
    def _turn(self, runner: Runner, job: Job, item: Item) -> Iterator[None]:
        """A turn, if the task needs one. While it waits for that, it does not count as running."""
        if not job.subscription.asynchronous or runner.is_asynchronous(item):
            yield
            return
        if not self._turns.take(wait=False):
            self._ledger.hold_again(job.record)
            if not self._turns.take(wait=True):
                raise NotBegun
            if not self._ledger.start(job.record):
                self._turns.end()
                raise NotBegun
        try:
            yield
        finally:
            self._turns.end()

    def _failed(self, runner: Runner, job: Job, item: Item, error: BaseException, outcomes: Outcomes) -> None:
        """Add the job to the outcomes: as failed, or as discarded by the task."""
        seconds, handling = outcomes.seconds, outcomes.handling
        if issubclass(type(error), Discard):
            try:
                outcome = runner.discarded(item, error)
            except Exception as wrong:
                error = wrong
            else:
                reason = failure.text_of(error)
                outcomes.finished.append(FinishedJob(job, item, seconds, reason, handling, error, outcome))
                return
        verdict = _verdict(runner, job.subscription, item, error)
        outcomes.failed.append(FailedJob(job, item, seconds, error, handling, verdict))


def _verdict(runner: Runner, subscription: Subscription, item: Item, error: BaseException) -> Verdict:
    """The runner's verdict. If it has none, as code of the project raised, the queue's rules hold."""
    try:
        verdict = runner.verdict(item, error)
    except BaseException as wrong:
        if _is_from_outside(wrong):
            raise
        kind = failure.name_of(wrong)
        logger.error(
            "cannot judge a failed task, the queue's rules hold queue=%s uid=%s error=%s",
            subscription.queue.alias,
            item.uid,
            kind,
        )
        verdict = Verdict(delay_after(error, subscription.backoff, item.deliveries), bury=failure.is_rejection(error))
    return verdict._replace(bury=True) if isinstance(error, Unrunnable | Exhausted) else verdict


def _is_from_outside(error: BaseException) -> bool:
    """Whether a signal raised the error. A task may raise KeyboardInterrupt itself: then its attempt has failed."""
    if not is_interruption(error):
        return False
    return isinstance(error, Interruption) or signal.getsignal(signal.SIGINT) is signal.default_int_handler
