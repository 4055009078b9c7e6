"""The claims of the leader: for all threads that have no job, from one subscription after the other."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from django_srq.consumer.ledger import Ledger
from django_srq.consumer.subscription import Kind, Rotation, Subscription
from django_srq.consumer.worker.buffer import Buffer
from django_srq.consumer.worker.claim import Answer, Claim, ClaimCalls
from django_srq.consumer.worker.intake import Intake
from django_srq.consumer.worker.job import FinishedJob, ack_batches
from django_srq.consumer.worker.pipeline import Pipeline
from django_srq.consumer.worker.retries import Retries
from django_srq.consumer.worker.settler import Settler
from django_srq.consumer.worker.steps import Lead
from django_srq.consumer.worker.waits import TokenResult, Waits
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable
from django_srq.operations import ClaimReply
from django_srq.transport.link import Link
from django_srq.transport.slots import Slot, slots
from django_srq.transport.stream import Sent

PASSING_ON = 1.0  # seconds for a call that passes wake tokens on


class Claims:
    """Claims items from the servers, and acks finished jobs with the same calls."""

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        ledger: Ledger,
        slot: Slot,
        *,
        calls: ClaimCalls,
        pipeline: Pipeline,
        intake: Intake,
        waits: Waits,
        buffer: Buffer,
        settler: Settler,
        retries: Retries,
    ) -> None:
        """slot: of the claims that are made at once or sent ahead."""
        self._subscriptions, self._rotation = list(subscriptions), Rotation(subscriptions)
        self._ledger, self._slot = ledger, slot
        self._calls, self._pipeline, self._intake, self._waits = calls, pipeline, intake, waits
        self._buffer, self._settler, self._retries = buffer, settler, retries

    def fetch(self, lead: Lead, answer: Answer) -> None:
        """Ack the finished jobs, and get a job for each thread that has none: into the answer.

        After an error the answer has the jobs that were claimed until then.
        """
        if self._pipeline.asked is not None:
            self.collect(answer, self._pipeline.asked)
        if not answer.jobs:
            self.collect(answer)
        self._ledger.beat()
        self._waits.recall(answer)
        self._round(lead, answer)

    # -- one subscription after the other

    def _round(self, lead: Lead, answer: Answer) -> None:
        needed, ahead = lead.needed, not answer.jobs
        if answer.jobs:  # from a claim behind a wait or one sent ahead, which are made only with a single subscription
            subscription = answer.jobs[0].subscription
            needed[subscription.kind] -= -(-len(answer.jobs) // subscription.batch)
        acks = self._acks(lead.finished)
        for subscription, has_token in self._to_ask(lead, acks):
            kind = subscription.kind
            n = self._buffer.ask(subscription, needed[kind], ahead=ahead)
            # With a token and no free thread, a claim of nothing passes the token on to another consumer.
            if n is not None and (n > 0 or has_token):
                found = self.claim(subscription, n, acks.pop(subscription, ()), answer)
                needed[kind] -= -(-found // subscription.batch)
                if found < n and answer.plenty:
                    needed[kind] = 0  # more than one reply holds: the rest goes before the other subscriptions' items
        for subscription, finished in acks.items():
            self._settler.ack(subscription, finished)

    def _acks(self, finished: Sequence[FinishedJob]) -> dict[Subscription, Sequence[FinishedJob]]:
        """The finished jobs to be acked with the next claims, by subscription. What is too large is acked now."""
        acks: dict[Subscription, list[FinishedJob]] = {}
        for done in finished:
            acks.setdefault(done.job.subscription, []).append(done)
        last: dict[Subscription, Sequence[FinishedJob]] = {}
        for subscription, mine in acks.items():
            *full, last[subscription] = ack_batches(subscription, mine)
            for batch in full:
                self._settler.ack(subscription, batch)
        return last

    def _to_ask(self, lead: Lead, acks: Container[Subscription]) -> Iterator[tuple[Subscription, bool]]:
        """The subscriptions to ask, in their turn, and for each whether its wake token was taken.

        A subscription that is not due is not asked: its queue pushes a wake token when an item can be taken. While
        another subscription always has items, the worker never waits for that token. So one call without a wait looks
        for the tokens of the subscriptions that come before those that are due.
        """
        woken, order = lead.woken, self._rotation.next(lead.woken)
        later: Sequence[Subscription] = ()
        due = self._buffer.due_among(order, acks)
        if woken is None and len(due) < len(order):
            woken, _, later = self._token_before(due, order, lead.needed)
            due = self._buffer.due_among(order, due)
        if woken is not None:
            yield woken, True
        yield from ((subscription, subscription in later) for subscription in due if subscription is not woken)

    def _token_before(
        self, due: Sequence[Subscription], order: Sequence[Subscription], needed: Mapping[Kind, int]
    ) -> TokenResult:
        """Take a wake token of a subscription that comes before all that are due; with weights: of any other one."""
        before = order if self._rotation.weighted or not due else order[: order.index(due[0])]
        others = [subscription for subscription in before if subscription not in due and needed[subscription.kind] > 0]
        rung = self._waits.take_token(others) if others and not self._buffer.over else TokenResult(None, ())
        self._buffer.ask_soon([*rung.unknown, *rung.later, *([rung.subscription] if rung.subscription else [])])
        return rung

    # -- at once

    def claim(self, subscription: Subscription, n: int, finished: Sequence[FinishedJob], answer: Answer) -> int:
        """Claim up to n items, and ack the finished jobs. Returns how many items were added to the answer.

        When the server is away, 0 is returned; the items go to the buffer when it is back.
        """
        n, before = min(n, self._calls.room), len(answer.jobs)
        answer.plenty = False  # until a reply says otherwise, and it may not come now
        self._slot.seq += 1
        if n:  # in the ledger until the reply is taken: a handler may hold the interpreter's lock meanwhile, for long
            self._ledger.begin_claim(self._calls.place(subscription), self._slot.seq)
            self._ledger.read_reply()
        claim = Claim(subscription, n, finished, number=self._slot.seq)
        self._intake.make(self._calls.call(subscription, n, finished), replace(self._slot), claim, answer)
        return len(answer.jobs) - before

    def pass_on(self) -> None:
        """Pass on the wake tokens that this worker may have taken: a claim of nothing wakes another consumer.

        Not on a server that is away: a claim may be owed to it, and the slot must keep the record of what that took.
        """
        links = dict.fromkeys(subscription.queue.link for subscription in self._subscriptions)
        self._slot.seq += 1  # the calls go to different queues, each of which has the slot for itself
        self._retries.at_each([link for link in links if not self._retries.away(link)], self._pass_on_at)

    def _pass_on_at(self, link: Link) -> None:
        answered = False
        for subscription in self._subscriptions:
            queue = subscription.queue
            if queue.link is link:
                try:
                    link.call(self._calls.call(subscription, 0), queue=queue.alias, timeout=PASSING_ON, slot=self._slot)
                    answered = True
                except (QueueUnavailable, OutcomeUnknown) as error:
                    if not answered:  # else the server is there, and the time at the end was too short for all queues
                        self._retries.call_in_vain(queue, error)
                    return  # there, other consumers find the items when they look by themselves

    # -- sent ahead

    def collect(self, answer: Answer, last: Sent[Any] | None = None) -> None:
        """Read the replies to all calls that were sent, or to those up to ``last``, into the answer. Blocks.

        A call without a reply is made again in its slot, so that it is carried out once.
        """
        for sent in self._pipeline.collect(last):
            if isinstance(sent.about, Claim):
                self._claimed_ahead(sent, sent.about, answer)
            else:
                self._acked_ahead(sent, *sent.about)

    def _claimed_ahead(self, sent: Sent[ClaimReply], claim: Claim, answer: Answer) -> None:
        if sent.result is None:
            self._intake.make(sent.call, sent.slot, claim.again(), answer)
        else:
            self._intake.take(claim, sent.result, answer)

    def _acked_ahead(self, sent: Sent[list[bool]], subscription: Subscription, finished: Sequence[FinishedJob]) -> None:
        def acked(flags: Sequence[bool] | None) -> None:
            slots.give_back(sent.slot)
            self._settler.acked(finished, flags)

        if sent.result is None:
            self._retries.do(subscription.queue, sent.call, acked, slot=sent.slot)
        else:
            acked(sent.result)


def claim_slots(consumer: str) -> tuple[bytes, bytes]:
    """The slots of a worker's claims: at once or ahead, and behind a wait. The supervisor closes them when it died."""
    return consumer.encode(), f"{consumer}.w".encode()
