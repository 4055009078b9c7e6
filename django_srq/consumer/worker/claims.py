"""The claims of a worker: made at once, sent ahead together with an ack, or behind a wait on the server."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from django_srq import operations
from django_srq.consumer.clock import lease_time
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.job import Finished, Job
from django_srq.consumer.worker.retries import ATTEMPT, LONGEST_PAUSE, Retries
from django_srq.consumer.worker.settler import Settler
from django_srq.consumer.worker.wakeup import Wakeup
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable
from django_srq.operations import Call, ClaimReply, DeliveryRef, StoredItem
from django_srq.queue.safe_redis_queue import LOOK
from django_srq.transport.link import Link
from django_srq.transport.slots import Slot, slots
from django_srq.transport.stream import Sent

logger = logging.getLogger("django_srq.consumer")
T = TypeVar("T")


@dataclass
class Answer:
    """The result of a round of claims over the subscriptions."""

    jobs: list[Job] = field(default_factory=list)
    waits: dict[Subscription, float] = field(default_factory=dict)  # seconds until it is worth claiming there again
    dry: set[Subscription] = field(default_factory=set)  # asked, and nothing is ready there

    def ask_again(self, subscription: Subscription, wait: float) -> None:
        self.waits[subscription] = min(wait, self.waits.get(subscription, LOOK))


@dataclass(slots=True)
class _Asked:
    """A claim on its way: its reply may be read much later."""

    subscription: Subscription
    n: int
    finished: Sequence[Finished] = ()  # acked with it
    share: float = 0.5  # of the lease: the reply counts as old when more time than that has gone by
    parked: bool = False  # behind a wait
    number: int = 0  # in its slot
    begun: float = field(default_factory=lease_time)

    def again(self) -> _Asked:
        """The same claim, sent once more now: its reply counts as old only when the whole lease may be over."""
        return replace(self, share=1, begun=lease_time())

    @property
    def until(self) -> float:
        """The moment at which the leases of its items end at the earliest."""
        return self.begun + self.subscription.lease

    @property
    def old(self) -> bool:
        """Whether the leases of its items may have ended, so that others may hold them, as after a suspension.

        Then the server is asked which of them are still held by this worker.
        """
        return lease_time() - self.begun > self.subscription.lease * self.share


class Rung(NamedTuple):
    """The result of a look at the wake lists of some subscriptions."""

    subscription: Subscription | None  # its token was taken
    unknown: Sequence[Subscription]  # their tokens may have been taken and lost with a reply, or nobody looked for them
    later: Sequence[Subscription] = ()  # their tokens were taken too, but they come after ``subscription``


class Claims:
    """Claims items from the servers, and acks finished items with the same calls.

    The items of a reply are first written into the ledger, and then added to an answer.
    """

    def __init__(
        self,
        consumer: str,
        subscriptions: Sequence[Subscription],
        ledger: Ledger,
        settler: Settler,
        retries: Retries,
        wakeup: Wakeup,
        *,
        left: int | None,
        width: Callable[[Subscription], int],
        late: Callable[[Answer], None],
    ) -> None:
        """left: how many items may be claimed in all; None: any number.

        width: how many items of a subscription are in handlers at one time, at most.

        late: called with the items of a claim that was put off until its server was back, in the thread that made it.
        """
        self.left = left  # items that may still be claimed; None: any number
        self.asked: Sent[ClaimReply] | None = None  # the claim that was sent ahead, and whose reply is not read yet
        self.plenty = False  # the last claim brought items, and more may be ready behind them
        self.refused = False  # the last wait failed: its server was away or refused it
        self._subscriptions, self._ledger = list(subscriptions), ledger
        self._names = {
            subscription: f"{consumer}+{width(subscription)}" for subscription in subscriptions
        }  # the consumer's name in claims: the server learns the width from it
        self._settler, self._retries, self._wakeup, self._late = settler, retries, wakeup, late
        # Two slots: one for claims that are made at once or sent ahead, one for claims behind a wait.
        self._slot, self._parking = (Slot(name) for name in claim_slots(consumer))
        links = {subscription.queue.link for subscription in subscriptions}
        self._streams = {link: link.stream(ATTEMPT if len(links) > 1 else None) for link in links}
        self._unsure: Subscription | None = None  # the claim behind the last wait may or may not have been carried out
        self._room = operations.BATCH  # most items that a claim asks for; 1 after an unreadable reply, then it doubles
        self._taking = threading.Lock()  # several threads, such as the leader and the idler, may take items at one time

    @property
    def unread(self) -> bool:
        """Whether there are replies to be read."""
        return bool(self._unsure or any(stream.unread for stream in self._streams.values()))

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()

    # -- at once

    def claim(self, subscription: Subscription, n: int, finished: Sequence[Finished], answer: Answer) -> int:
        """Claim up to n items, and ack the finished ones. Returns how many items were added to the answer.

        When the server is away, 0 is returned; the items go to ``late`` when it is back.
        """
        n = min(n, self._room)
        call = subscription.queue.claim(
            self._names[subscription], lease=subscription.lease, n=n, acks=[one.job.held for one in finished]
        )
        before = len(answer.jobs)
        self.plenty = False  # until a reply says otherwise, and it may not come now
        self._slot.seq += 1
        if n:  # in the ledger until the reply is taken: a handler may hold the interpreter's lock meanwhile, for long
            self._ledger.begin_claim(self._subscriptions.index(subscription), self._slot.seq)
            self._ledger.read_reply()
        self._make(call, replace(self._slot), _Asked(subscription, n, finished, number=self._slot.seq), answer)
        return len(answer.jobs) - before

    def _make(self, call: Call[ClaimReply], slot: Slot, asked: _Asked, answer: Answer) -> None:
        """Make a claim, and take its items."""

        def take(reply: ClaimReply, answer: Answer) -> None:
            self._take(asked, reply, answer)

        def put_off() -> None:
            if asked.n:
                self._ledger.put_off(self._subscriptions.index(asked.subscription), asked.number)

        undoing = partial(self._undoing, asked)
        self._do(asked.subscription, call, take, answer, slot=slot, unread=undoing, put_off=put_off)

    def _do(
        self, subscription: Subscription, call: Call[T], take: Callable[[T, Answer], None], answer: Answer, **how: Any
    ) -> None:
        """Make a call, and have ``take`` read its reply into the answer.

        If the call is put off, its reply goes into an answer of its own, and to ``late``.
        """

        def now(reply: T | None) -> None:
            if reply is not None:
                take(reply, answer)

        def late(reply: T | None) -> None:
            if reply is not None:
                later = Answer()
                take(reply, later)
                self._late(later)

        self._retries.do(subscription.queue, call, now, late=late, **how)

    def _undoing(self, asked: _Asked, cut: bool) -> Call[ClaimReply]:
        """The call that gives back the items of a reply that cannot be read. The next claim asks for a single item.

        cut: the reply had begun, so that its items are to blame. Else the server may just have been silent, and no item
        is to blame. But if a single item was asked for and its reply did not come twice, while the server answers this
        call, then that item is to blame.
        """
        subscription, held = asked.subscription, [one.job.held for one in asked.finished]
        cut = cut or self._room == 1
        logger.warning("cannot read the reply to a claim, releasing its items queue=%s", subscription.queue.alias)
        self._room = 1
        how = operations.UNREAD if cut else operations.GIVE_BACK
        return subscription.queue.claim(self._names[subscription], lease=subscription.lease, n=how, acks=held)

    def _take(self, asked: _Asked, reply: ClaimReply, answer: Answer) -> None:
        if reply.found and asked.old:
            self._keep(asked.again(), reply, answer)
        else:
            self._took(asked, reply, answer)

    def _keep(self, asked: _Asked, reply: ClaimReply, answer: Answer) -> None:
        """Take the items of a late reply, as far as this worker still holds them, and extend their leases."""
        queue, held = asked.subscription.queue, [_held(one) for one in reply.found]
        recover = queue.autoclean_interval is not None

        def take(kept: Sequence[bool], answer: Answer) -> None:
            found = [one for one, ours in zip(reply.found, kept, strict=True) if ours]
            self._took(asked, reply._replace(found=found), answer)

        call = operations.extend(queue.keys, held, lease=asked.subscription.lease, recover=recover)
        self._do(asked.subscription, call, take, answer)

    def _took(self, asked: _Asked, reply: ClaimReply, answer: Answer) -> None:
        taken = self._add(asked, reply, answer)
        took = self._ledger.end_parked if asked.parked else self._ledger.end_claim
        if not took(asked.number):
            self._return(asked.subscription, taken, answer)
            taken = 0
        self._settler.acked(asked.finished, reply.acked)
        self._return_surplus(asked.subscription, taken, answer)

    def _return_surplus(self, subscription: Subscription, taken: int, answer: Answer) -> None:
        """Give back the items above ``left``: a claim that was put off may have brought items too."""
        if self.left is None:
            return
        with self._taking:
            surplus = min(max(0, -self.left), taken)
            self.left += surplus
        self._return(subscription, surplus, answer)

    def _return(self, subscription: Subscription, last: int, answer: Answer) -> None:
        """Give back the given number of jobs at the end of an answer."""
        if last:
            self._settler.release(subscription, answer.jobs[-last:])
            del answer.jobs[-last:]

    def pass_on(self) -> None:
        """Pass on the wake tokens that this worker may have taken: a claim of nothing wakes another consumer.

        Not on a server that is away: a claim may be owed to it, and the slot must keep the record of what that took.
        """
        silent: set[Link] = set()
        for subscription in self._subscriptions:
            queue = subscription.queue
            try:
                if queue.link not in silent and not self._retries.away(queue.link):
                    self._slot.seq += 1
                    call = queue.claim(self._names[subscription], lease=subscription.lease, n=0)
                    queue.link.call(call, queue=queue.alias, timeout=1, slot=self._slot)
            except (QueueUnavailable, OutcomeUnknown):
                silent.add(queue.link)  # there, other consumers find the items when they look by themselves

    def _add(self, asked: _Asked, reply: ClaimReply, answer: Answer) -> int:
        """Write the items of a claim into the ledger and add them to the answer. Returns how many they are."""
        subscription, n = asked.subscription, asked.n
        jobs = self._write_down(subscription, reply.found, asked.until)
        answer.jobs += jobs
        self.plenty = n > 0 and bool(jobs) and reply.wait == 0 and not jobs[0].suspect
        if jobs:
            self._room = min(2 * self._room, operations.BATCH)
        if n:
            answer.ask_again(subscription, min(subscription.lease, LOOK if reply.wait is None else reply.wait))
        # Items that only a limit holds up are not the end of a burst: they will be handed out later.
        if n and not jobs and reply.wait != 0 and not reply.held_up:
            answer.dry.add(subscription)
        return len(jobs)

    def _write_down(self, subscription: Subscription, found: Iterable[StoredItem], until: float) -> list[Job]:
        place, jobs = self._subscriptions.index(subscription), []
        with self._taking:
            for one in found:
                held = _held(one)
                jobs.append(Job(subscription, one, held, *self._ledger.hold(place, held, until=until)))
            if self.left is not None:
                self.left -= len(jobs)
        return jobs

    # -- sent ahead

    def prepare(self, subscription: Subscription, finished: Sequence[Finished], n: int) -> Sent[Any]:
        """A call for ``send`` that acks the finished items, and claims up to n items (0: none). Does no I/O."""
        queue, held, n = subscription.queue, [one.job.held for one in finished], min(n, self._room)
        for one in finished:
            self._ledger.ack(one.job.record)
        if not n:
            return Sent(operations.ack(queue.keys, held), queue.alias, slots.borrow(), (subscription, finished))
        self._slot.seq += 1
        call = queue.claim(self._names[subscription], lease=subscription.lease, n=n, acks=held)
        self._ledger.begin_claim(self._subscriptions.index(subscription), self._slot.seq)
        about = _Asked(subscription, n, finished, number=self._slot.seq)
        # A copy: it may be sent again with this number, after later claims.
        self.asked = Sent(call, queue.alias, replace(self._slot), about)
        return self.asked

    def send(self, subscription: Subscription, prepared: Sent[Any]) -> None:
        """Send a prepared call, or leave it to the thread that is sending now. ``collect`` reads the reply."""
        self._streams[subscription.queue.link].post(prepared)

    def collect(self, answer: Answer, last: Sent[Any] | None = None) -> None:
        """Read the replies to all calls that were sent, or to those up to ``last``, into the answer. Blocks.

        A call without a reply is made again in its slot, so that it is carried out once.
        """
        self._ledger.read_reply()
        collected = [sent for stream in self._streams.values() for sent in stream.collect(last)]
        self.asked = None  # this claim is among the collected calls in any case
        for sent in collected:
            if isinstance(sent.about, _Asked) and sent.result is None:
                # It is on its way again, and no reply is being read.
                self._ledger.begin_claim(self._subscriptions.index(sent.about.subscription), sent.slot.seq)
        for sent in collected:
            if isinstance(sent.about, _Asked):
                self._claimed_ahead(sent, sent.about, answer)
            else:
                self._acked_ahead(sent, *sent.about)

    def _acked_ahead(self, sent: Sent[list[bool]], subscription: Subscription, finished: Sequence[Finished]) -> None:
        def acked(flags: Sequence[bool] | None) -> None:
            slots.give_back(sent.slot)
            self._settler.acked(finished, flags)

        if sent.result is None:
            self._retries.do(subscription.queue, sent.call, acked, slot=sent.slot)
        else:
            acked(sent.result)

    def _claimed_ahead(self, sent: Sent[ClaimReply], asked: _Asked, answer: Answer) -> None:
        if sent.result is None:
            self._make(sent.call, sent.slot, asked.again(), answer)
        else:
            self._take(asked, sent.result, answer)

    # -- behind a wait

    def park(self, subscription: Subscription, n: int, seconds: float) -> Answer | None:
        """Wait on the server, with a claim behind the wait: the server carries the claim out when the wait ends.

        So an item is here one reply after its put. Blocks for so many seconds at most, or until the wakeup is rung.
        None: whether the claim was carried out is not known; ``recall`` finds out.
        """
        n = min(n, self._room)
        self._parking.seq += 1
        queue, asked, answer = subscription.queue, _Asked(subscription, n, parked=True, number=self._parking.seq), None
        call = queue.claim(self._names[subscription], lease=subscription.lease, n=n)
        self._ledger.park(asked.number, seconds)
        try:
            wait = operations.wait([queue.keys], seconds)
            reply = queue.link.park(
                wait,
                call,
                seconds,
                slot=self._parking,
                queue=queue.alias,
                interrupt=self._wakeup.end,
                arriving=self._arriving,
            )
            if reply is not None:
                self._ledger.beat()
                answer = Answer()
                self._take(asked, reply, answer)
        except (QueueUnavailable, OutcomeUnknown):
            self._wait_refused(seconds)
        finally:
            if answer is None:
                self._unsure = subscription
        return answer

    def recall(self, answer: Answer) -> None:
        """Take the items of the claim behind the last wait, if ``park`` could not.

        A claim of nothing is sent with the same number. If the server has carried out the first one, it answers with
        the items of that. If the first one is still on its way, it will take nothing any more.
        """
        subscription, self._unsure = self._unsure, None
        if subscription is not None:
            self._arriving()
            call = subscription.queue.claim(self._names[subscription], lease=subscription.lease, n=0)
            asked = _Asked(subscription, 0, share=1, parked=True, number=self._parking.seq)
            self._make(call, replace(self._parking), asked, answer)  # with the same number: only one is carried out

    def _arriving(self) -> None:
        self._ledger.arriving = True

    def wait(self, seconds: float, subscriptions: Sequence[Subscription]) -> Rung:
        """Wait for a wake token of these subscriptions, at most so many seconds, or until the wakeup is rung."""
        links = _by_link(subscriptions)
        # Only one connection blocks at a time: several servers take turns, at random.
        link, mine = random.choice(list(links.items()))
        share = seconds / len(links)
        try:
            command = operations.wait([subscription.queue.keys for subscription in mine], share)
            key = link.wait(command, share, queue=mine[0].queue.alias, interrupt=self._wakeup.end)
        except QueueUnavailable:
            self._wait_refused(share)
            return Rung(None, subscriptions)
        self.refused = False
        others = [subscription for subscription in subscriptions if subscription.queue.link is not link]
        return _rung(mine, key, others)

    def take_token(self, subscriptions: Sequence[Subscription]) -> Rung:
        """Take the wake token of the first of these subscriptions that has one, without waiting for it."""
        unknown: Sequence[Subscription] = ()
        found: list[Subscription] = []  # each comes before those that were found earlier, on other servers
        for link, mine in _by_link(subscriptions).items():
            before = (
                mine
                if not found
                else [
                    subscription
                    for subscription in subscriptions[: subscriptions.index(found[-1])]
                    if subscription in mine
                ]
            )
            if before and not self._retries.away(link):
                command = operations.take_token([subscription.queue.keys for subscription in before])
                key = link.once(command, queue=before[0].queue.alias, timeout=min(ATTEMPT, link.timeout))
                subscription, unknown, _ = _rung(before, key, unknown)
                found += [subscription] if subscription else []
        return Rung(found[-1] if found else None, unknown, found[:-1])

    def _wait_refused(self, seconds: float) -> None:
        """A wait failed. Pause, and send no claim behind the next wait.

        The next claim reports the trouble, unless the server refuses only the wait.
        """
        self.refused = True
        self._wakeup.pause(min(seconds, LONGEST_PAUSE))


def _by_link(subscriptions: Iterable[Subscription]) -> dict[Link, list[Subscription]]:
    links: dict[Link, list[Subscription]] = {}
    for subscription in subscriptions:
        links.setdefault(subscription.queue.link, []).append(subscription)
    return links


def _rung(subscriptions: Sequence[Subscription], key: str | None, unknown: Sequence[Subscription]) -> Rung:
    """key: the wake list of one of the subscriptions; "": none of them has a token; None: no reply came."""
    if key is None:
        return Rung(None, [*unknown, *subscriptions])
    return Rung(
        next((subscription for subscription in subscriptions if subscription.queue.keys["wake"] == key), None), unknown
    )


def _held(found: StoredItem) -> DeliveryRef:
    return DeliveryRef(found.uid, found.delivery.token, found.delivery.number)


def claim_slots(consumer: str) -> tuple[bytes, bytes]:
    """The slots of a worker's claims: at once or ahead, and behind a wait. The supervisor closes them when it died."""
    return consumer.encode(), f"{consumer}.w".encode()
