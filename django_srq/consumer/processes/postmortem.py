"""What becomes of the items of a child that ended without settling them itself."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from django_srq import operations
from django_srq.consumer.ledger import FAILED, RUNNING, STUB, Entry, Ledger
from django_srq.consumer.processes.child_handle import STOPPED, ChildExit, ChildHandle
from django_srq.consumer.processes.event_relay import EventRelay
from django_srq.consumer.processes.reports import About, Report, Reports
from django_srq.consumer.runner import EARLIER_ERRORS, TaskTimeout
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.summary import Summary
from django_srq.consumer.worker.claims import claim_slots
from django_srq.operations import Call, CrashReply, DeliveryRef
from django_srq.queue import failure
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.runtime.guarded_log import guarded

logger = guarded("django_srq.consumer")
# By the state of the item.
_WORDS = {
    "ready": (logging.WARNING, "its process ended, will be tried again queue=%s uid=%s state=%s error=%s reason=%s"),
    "dead": (logging.ERROR, "its process ended, now dead queue=%s uid=%s state=%s error=%s reason=%s"),
}


class PostMortem:
    """Reads the ledgers of children that have ended, and reports to the servers what became of the items."""

    def __init__(
        self, subscriptions: Sequence[Subscription], reports: Reports, events: EventRelay, summary: Summary
    ) -> None:
        self._subscriptions, self._reports, self._events, self._summary = subscriptions, reports, events, summary
        self.met_trouble = False  # whether a child ended while a server was away
        self.cut_items = False  # whether items were cut at the end of the grace

    def examine(self, exit: ChildExit) -> None:
        self._summary.count(exit.child.ledger)
        self.met_trouble = self.met_trouble or bool(exit.child.ledger.trouble)
        entries = list(exit.child.ledger)
        running = any(entry.state == RUNNING for entry in entries)
        self.cut_items = self.cut_items or (running and exit.child.kill_reason == STOPPED)
        for index, subscription in enumerate(self._subscriptions):
            mine = [entry for entry in entries if entry.subscription == index]
            for call in settlements(subscription, mine):
                self._reports.append(Report(subscription.queue, call))
            # One call for each running item, with its own evidence. The last calls close the slots, and end the items
            # of a claim that were never written down: they were not started, but one may have killed the child, such
            # as a payload that is too large for its memory.
            for entry in mine:
                if entry.state == RUNNING and entry.generation in exit.child.timed_out:
                    self._end_attempt(exit, subscription.queue, entry)
                elif entry.in_doubt:
                    self._end(exit, subscription, "crash" if _is_to_blame(exit, entry) else "cut", entry=entry)
            unread = _unread_claims(exit.child, index)
            for slot in claim_slots(exit.child.id):
                mode = "crash" if exit.unexplained and slot not in unread else "release"
                self._end(exit, subscription, mode, slot=slot)

    def _end(
        self, exit: ChildExit, subscription: Subscription, mode: str, *, entry: Entry | None = None, slot: bytes = b""
    ) -> None:
        queue = subscription.queue
        evidence = failure.of_death(
            exit.child.kill_reason or exit.description,
            consumer=exit.child.id,
            run_time=time.monotonic() - entry.started if entry else 0.0,
            memory=exit.memory,
            keep=EARLIER_ERRORS if subscription.runner else 0,
        )
        held = [entry.held] if entry else []
        most = entry.most_deliveries if entry else 0
        call = ending(queue, held, mode, evidence, slot=slot, most_deliveries=most)
        report = Report(queue, call, about=_about(exit.child.ledger, held))
        if mode != "release":
            report.then = lambda reply: self._announce(queue, held, reply, json.loads(evidence))
        self._reports.append(report)

    def _end_attempt(self, exit: ChildExit, queue: SafeRedisQueue, entry: Entry) -> None:
        """Report that a task took longer than its own time limit: its attempt has failed."""
        evidence, call = timeout(exit.child.id, queue, entry)
        report = Report(queue, call)
        report.then = lambda state: self._announce(queue, [entry.held], CrashReply([state], {}), json.loads(evidence))
        self._reports.append(report)

    def _announce(
        self, queue: SafeRedisQueue, held: Sequence[DeliveryRef], reply: CrashReply, evidence: dict[str, Any]
    ) -> None:
        states = {ref.uid: state for ref, state in zip(held, reply.states, strict=True) if state} | dict(reply.found)
        for uid, state in states.items():
            level, template = _WORDS.get(state, _WORDS["ready"])
            fields = {
                "queue": queue.alias,
                "uid": uid,
                "state": state,
                "error": evidence["type"],
                "reason": evidence["message"],
            }
            about = {**fields, "consumer": evidence["consumer"], "outcome": "failed"}
            logger.log(level, template, *fields.values(), extra=about)
            self._events.add(state, queue=queue.alias, uid=uid, consumer=evidence["consumer"], evidence=evidence)


def _about(ledger: Ledger, held: Sequence[DeliveryRef]) -> About:
    if held:
        return About.ITEMS
    owed = ledger.claiming is not None or ledger.claims_put_off or ledger.parked
    return About.CLAIM if owed else About.NOTHING


def _is_to_blame(exit: ChildExit, entry: Entry) -> bool:
    """Whether a child's end counts as a crash of that item, which was running."""
    child = exit.child
    suspect = not child.over_limit or entry.generation in child.over_limit
    # Else the child was telling the server. If that took too long, the server is to blame, not the item. But if the
    # child died of itself, the item is.
    begun = entry.state == RUNNING or (exit.unexplained and not child.ledger.fatal)
    return child.kill_reason != STOPPED and suspect and begun


def _unread_claims(child: ChildHandle, index: int) -> set[bytes]:
    """The slots of claims that may have taken items of a subscription (its index), and whose replies are not to blame.

    The child was not reading these replies when it died.
    """
    ledger, (own, parking) = child.ledger, claim_slots(child.id)
    sent = ledger.claiming is not None and not ledger.reading
    # A child repeats a claim that is owed, and may have been reading its reply. But if a handler was at work, that is
    # the likelier cause.
    at_work = any(entry.state in {RUNNING, FAILED} for entry in ledger)
    unread = {own} if sent or (at_work and any(owed == index for owed, _ in ledger.claims_put_off)) else set()
    return unread | {parking} if ledger.parked and not ledger.arriving else unread


def settlements(subscription: Subscription, entries: Sequence[Entry]) -> Iterator[Call[Any]]:
    """The calls that ack the handled items, and release those not started.

    They come before the calls about running items: if their sender dies in between, no handled item is delivered again,
    and no item that was not started is blamed. Released are also tasks whose return values died with the child.
    """
    queue = subscription.queue
    if done := [entry for entry in entries if entry.is_handled and not entry.is_to_be_released]:
        yield operations.ack(queue.keys, [entry.held for entry in done], _stubs(subscription, done))
    if released := [entry.held for entry in entries if entry.is_to_be_released]:
        yield operations.release(queue.keys, released)


def _stubs(subscription: Subscription, done: Sequence[Entry]) -> Sequence[bytes]:
    if subscription.runner is None:
        return ()
    return [subscription.runner.stub() if entry.result == STUB else b"" for entry in done]


def timeout(consumer: str, queue: SafeRedisQueue, entry: Entry) -> tuple[bytes, Call[str | None]]:
    """The error of a task that took longer than its own time limit, and the call that says that its attempt failed."""
    run_time = time.monotonic() - entry.started
    error = failure.of_timeout(TaskTimeout(entry.limit), consumer=consumer, run_time=run_time, keep=EARLIER_ERRORS)
    call = operations.fail(
        queue.keys,
        entry.held,
        error=error,
        delay=max(0, entry.delay),
        max_deliveries=entry.most_deliveries or queue.max_deliveries,
        bury=entry.delay < 0,
    )
    return error, call


def ending(
    queue: SafeRedisQueue,
    held: Sequence[DeliveryRef],
    how: str,
    evidence: bytes,
    *,
    slot: bytes = b"",
    most_deliveries: int = 0,
) -> Call[CrashReply]:
    """The call about items that ran when the child ended. how, slot: see crashed.lua; most_deliveries: see ``Entry``.

    If the queue recovers nothing automatically, it only ends the leases of items that were started.
    """
    return operations.crashed(
        queue.keys,
        held,
        evidence=evidence,
        how=how if queue.autoclean_interval is not None or how == "release" else "end",
        slot=slot,
        max_deliveries=most_deliveries or queue.max_deliveries,
        max_crashes=queue.max_crashes,
    )
