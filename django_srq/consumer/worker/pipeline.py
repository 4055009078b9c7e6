"""The pipeline: calls that are sent without waiting for their replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django_srq import operations
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.claim import Claim, ClaimCalls
from django_srq.consumer.worker.job import FinishedJob, results
from django_srq.operations import ClaimReply
from django_srq.transport.link import Link
from django_srq.transport.slots import Slot, slots
from django_srq.transport.stream import Sent, Stream


class Pipeline:
    """Sends acks, and with one of them the claim for the next items: a claim ahead.

    ``Sent.about`` is the ``Claim``, or for an ack its subscription and the finished jobs.
    """

    def __init__(self, calls: ClaimCalls, ledger: Ledger, slot: Slot, streams: dict[Link, Stream]) -> None:
        """slot: of the claims that are made at once or sent ahead."""
        self.asked: Sent[ClaimReply] | None = None  # the claim that was sent ahead, and whose reply is not read yet
        self._calls, self._ledger, self._slot, self._streams = calls, ledger, slot, streams

    @property
    def unread(self) -> bool:
        """Whether there are replies to be read."""
        return any(stream.unread for stream in self._streams.values())

    def prepare(self, subscription: Subscription, finished: Sequence[FinishedJob], n: int) -> Sent[Any]:
        """A call for ``send`` that acks the finished jobs, and claims up to n items (0: none). Does no I/O."""
        queue, n = subscription.queue, min(n, self._calls.room)
        for done in finished:
            self._ledger.ack(done.job.record)
        if not n:
            held = [done.job.held for done in finished]
            call = operations.ack(queue.keys, held, results(subscription, finished))
            return Sent(call, queue.alias, slots.borrow(), (subscription, finished))
        self._slot.seq += 1
        self._ledger.begin_claim(self._calls.place(subscription), self._slot.seq)
        claim = Claim(subscription, n, finished, number=self._slot.seq)
        # A copy of the slot: the call may be sent again with this number, after later claims.
        self.asked = Sent(self._calls.call(subscription, n, finished), queue.alias, replace(self._slot), claim)
        return self.asked

    def send(self, subscription: Subscription, prepared: Sent[Any]) -> None:
        """Send a prepared call, or leave it to the thread that is sending now. ``collect`` reads the reply."""
        self._streams[subscription.queue.link].post(prepared)

    def collect(self, last: Sent[Any] | None = None) -> list[Sent[Any]]:
        """The calls that were sent, or those up to ``last``, with their results: None without a reply. Blocks."""
        self._ledger.read_reply()
        collected = [sent for stream in self._streams.values() for sent in stream.collect(last)]
        self.asked = None  # this claim is among the collected calls in any case
        for sent in collected:
            if isinstance(sent.about, Claim) and sent.result is None:
                # It will be on its way again, and no reply is being read.
                self._ledger.begin_claim(self._calls.place(sent.about.subscription), sent.slot.seq)
        return collected

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()
