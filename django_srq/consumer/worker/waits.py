"""Waits on the server, until an item is there: for a wake token, or with a claim right behind the wait."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from django_srq import operations
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.claim import Answer, Claim, ClaimCalls
from django_srq.consumer.worker.intake import Intake
from django_srq.consumer.worker.retries import ATTEMPT, LONGEST_PAUSE, Retries
from django_srq.consumer.worker.wakeup import Wakeup
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable
from django_srq.transport.link import Link
from django_srq.transport.slots import Slot


class TokenResult(NamedTuple):
    """The result of a look at the wake lists of some subscriptions."""

    subscription: Subscription | None  # its token was taken
    unknown: Sequence[Subscription]  # their tokens may have been taken and lost with a reply, or nobody looked for them
    later: Sequence[Subscription] = ()  # their tokens were taken too, but they come after ``subscription``


class Waits:
    """Waits on the servers for the whole worker. One thread waits at a time, the idler."""

    def __init__(
        self, calls: ClaimCalls, ledger: Ledger, slot: Slot, intake: Intake, retries: Retries, wakeup: Wakeup
    ) -> None:
        """slot: of the claims behind a wait."""
        self.unsure: Subscription | None = None  # the claim behind the last wait may or may not have been carried out
        self.refused = False  # the last wait failed: its server was away or refused it
        self._calls, self._ledger, self._slot, self._intake = calls, ledger, slot, intake
        self._retries, self._wakeup = retries, wakeup

    # -- a claim behind a wait

    def park(self, subscription: Subscription, n: int, seconds: float) -> Answer | None:
        """Wait on the server, with a claim behind the wait: the server carries the claim out when the wait ends.

        So an item is here one reply after its put. Blocks for so many seconds at most, or until the wakeup is rung.
        None: whether the claim was carried out is not known; ``recall`` finds out.
        """
        n = min(n, self._calls.room)
        self._slot.seq += 1
        claim, answer = Claim(subscription, n, parked=True, number=self._slot.seq), None
        self._ledger.park(claim.number, seconds)
        try:
            reply = subscription.queue.link.park(
                operations.wait([subscription.queue.keys], seconds),
                self._calls.call(subscription, n),
                seconds,
                slot=self._slot,
                queue=subscription.queue.alias,
                interrupt=self._wakeup.end,
                arriving=self._arriving,
            )
            if reply is not None:
                self._ledger.beat()
                answer = Answer()
                self._intake.take(claim, reply, answer)
        except (QueueUnavailable, OutcomeUnknown):
            self._wait_refused(seconds)
        finally:
            if answer is None:
                self.unsure = subscription
        return answer

    def recall(self, answer: Answer) -> None:
        """Take the items of the claim behind the last wait, if ``park`` could not.

        A claim of nothing is sent with the same number. If the server has carried out the first one, it answers with
        the items of that. If the first one is still on its way, it will take nothing any more.
        """
        subscription, self.unsure = self.unsure, None
        if subscription is not None:
            self._arriving()
            claim = Claim(subscription, 0, share=1, parked=True, number=self._slot.seq)
            self._intake.make(self._calls.call(subscription, 0), replace(self._slot), claim, answer)

    def _arriving(self) -> None:
        self._ledger.arriving = True

    # -- wake tokens

    def wait(self, seconds: float, subscriptions: Sequence[Subscription]) -> TokenResult:
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
            return TokenResult(None, subscriptions)
        self.refused = False
        others = [subscription for subscription in subscriptions if subscription.queue.link is not link]
        return _rung(mine, key, others)

    def take_token(self, subscriptions: Sequence[Subscription]) -> TokenResult:
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
        return TokenResult(found[-1] if found else None, unknown, found[:-1])

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


def _rung(subscriptions: Sequence[Subscription], key: str | None, unknown: Sequence[Subscription]) -> TokenResult:
    """The result of a look at the wake lists of the subscriptions.

    key: the wake list whose token was taken; "": none of them has a token; None: no reply came.
    """
    if key is None:
        return TokenResult(None, [*unknown, *subscriptions])
    return TokenResult(
        next((subscription for subscription in subscriptions if subscription.queue.keys["wake"] == key), None), unknown
    )
