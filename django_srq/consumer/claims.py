"""The claims of a worker: made at once, sent ahead together with an ack, or behind a wait on the server."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django_srq import operations
from django_srq.connections import Link, Sent
from django_srq.consumer.alarm import Alarm
from django_srq.consumer.clock import lease_time
from django_srq.consumer.errands import ATTEMPT, LONGEST_PAUSE, Errands
from django_srq.consumer.hands import Hands
from django_srq.consumer.job import Finished, Job
from django_srq.consumer.settling import Settling
from django_srq.consumer.source import Source
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable
from django_srq.operations import Call, ClaimReply, Found, Held
from django_srq.queue import LOOK
from django_srq.slots import Slot, slots


@dataclass
class Answer:
    """What a round over the sources brought."""

    jobs: list[Job] = field(default_factory=list)
    again: bool = False  # somewhere there may be more now
    wait: float = LOOK  # seconds until it is worth asking the others again
    dry: set[Source] = field(default_factory=set)  # asked, and nothing is ready there


@dataclass(slots=True)
class _Asked:
    """A claim whose reply is not read at once."""

    source: Source
    n: int
    finished: Sequence[Finished] = ()  # acked with it
    share: float = 0.5  # of the lease: later than that the reply counts as old
    begun: float = field(default_factory=lease_time)

    def again(self) -> _Asked:
        """The same asked once more: what is not over by the time of its reply is as good as that gets."""
        return _Asked(self.source, self.n, self.finished, share=1)

    @property
    def until(self) -> float:
        """The moment at which the leases that it got end at the earliest."""
        return self.begun + self.source.lease

    @property
    def old(self) -> bool:
        """Whether such leases may have ended, and others may have the items, as after a process was suspended.

        Asked again, the server tells which are still ours.
        """
        return lease_time() - self.begun > self.source.lease * self.share


class Claims:
    """Asks the servers for items, and acks what is finished with the same calls.

    What they bring is written down in ``hands`` before anything else, and added to an answer.
    """

    def __init__(
        self,
        consumer: str,
        sources: Sequence[Source],
        hands: Hands,
        settling: Settling,
        errands: Errands,
        alarm: Alarm,
        *,
        left: int | None,
        width: Callable[[Source], int],
        late: Callable[[Answer], None],
    ) -> None:
        """width: how many items of a source are begun at one time, at most.

        late: takes, in a thread of its own, what a claim brings that was put off until the server was back.
        """
        self.left = left  # items that may still be claimed; None: any number
        self.asked: Sent[ClaimReply] | None = None  # the claim that was sent ahead, and whose reply is not read yet
        self.plenty = False  # the last claim brought all that it asked for, and behind which more may be claimed
        self.refused = False  # the server carried out no wait
        self._sources, self._hands = list(sources), hands
        self._names = {source: f"{consumer}+{width(source)}" for source in sources}  # by which the server knows us
        self._settling, self._errands, self._alarm, self._late = settling, errands, alarm, late
        # Of all claims: those that are made at once or sent ahead, and those behind a wait.
        self._slot, self._parking = (Slot(name) for name in claim_slots(consumer))
        links = {source.queue.link for source in sources}
        self._streams = {link: link.stream(ATTEMPT if len(links) > 1 else None) for link in links}
        self._unsure: Source | None = None  # whether the claim behind the last wait was carried out is not known
        self._taking = threading.Lock()  # whoever leads and whoever waits may take at one time

    @property
    def unread(self) -> bool:
        """Whether there are replies to be read."""
        return bool(self._unsure or any(stream.unread for stream in self._streams.values()))

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()

    # -- at once

    def claim(self, source: Source, n: int, finished: Sequence[Finished], answer: Answer) -> int:
        """Claim up to n items, and ack what is finished; how many there are now. From a server that is away: late."""
        call = source.queue.claim(self._names[source], lease=source.lease, n=n, acks=[one.job.held for one in finished])
        before = len(answer.jobs)
        self._slot.seq += 1
        if n:  # until the reply is taken: another thread may have the interpreter's lock meanwhile, for long
            self._hands.ask(self._sources.index(source), self._slot.seq)
            self._hands.read()
        self._make(call, replace(self._slot), _Asked(source, n, finished), answer)
        return len(answer.jobs) - before

    def _make(self, call: Call[ClaimReply], slot: Slot, asked: _Asked, answer: Answer) -> None:
        """Make a claim, and take what it brings."""

        def take(reply: ClaimReply | None, answer: Answer = answer) -> None:
            if reply is not None:
                self._take(call, slot, asked, reply, answer)

        def take_late(reply: ClaimReply | None) -> None:
            if reply is not None:
                late = Answer()
                take(reply, late)
                self._late(late)

        self._errands.do(asked.source.queue, call, take, late=take_late, slot=slot)

    def _take(self, call: Call[ClaimReply], slot: Slot, asked: _Asked, reply: ClaimReply, answer: Answer) -> None:
        if reply.found and asked.old:
            self._make(call, slot, asked.again(), answer)
            return
        taken = self._add(asked.source, asked.n, reply, answer, asked.until)
        if not self._hands.took(slot.seq):
            self._return(asked.source, taken, answer)
            taken = 0
        self._settling.acked(asked.finished, reply.acked)
        self._return_surplus(asked.source, taken, answer)

    def _return_surplus(self, source: Source, taken: int, answer: Answer) -> None:
        """Give back what is more than may be handled: a claim that came late may have brought something too."""
        if self.left is None:
            return
        with self._taking:
            surplus = min(max(0, -self.left), taken)
            self.left += surplus
        self._return(source, surplus, answer)

    def _return(self, source: Source, last: int, answer: Answer) -> None:
        """Give back so many of the last jobs of an answer."""
        if last:
            self._settling.release(source, answer.jobs[-last:])
            del answer.jobs[-last:]

    def pass_on(self) -> None:
        """A wake token that we may have taken must not be lost: a claim of nothing rings for whoever is there.

        Not where a claim is owed, of which the slot is to tell what it took.
        """
        silent: set[Link] = set()
        for source in self._sources:
            queue = source.queue
            try:
                if queue.link not in silent and not self._errands.away(queue.link):
                    self._slot.seq += 1
                    call = queue.claim(self._names[source], lease=source.lease, n=0)
                    queue.link.call(call, queue=queue.label, timeout=1, slot=self._slot)
            except (QueueUnavailable, OutcomeUnknown):
                silent.add(queue.link)  # there, others find it when they look by themselves

    def _add(self, source: Source, n: int, reply: ClaimReply, answer: Answer, until: float | None = None) -> int:
        """Take what a claim of up to n items brought; how many. until: the end of its leases at the earliest."""
        jobs = self._write_down(source, reply.found, until or lease_time() + source.lease)
        answer.jobs += jobs
        self.plenty = 0 < n == len(jobs) and not jobs[0].suspect
        if n:
            answer.again |= reply.wait == 0
            answer.wait = min(answer.wait, source.lease, reply.wait or LOOK)
        # What only the limits hold up is not the end of a burst: they will let it through.
        if n and not jobs and reply.wait != 0 and not reply.held_up:
            answer.dry.add(source)
        return len(jobs)

    def _write_down(self, source: Source, found: Iterable[Found], until: float) -> list[Job]:
        place, jobs = self._sources.index(source), []
        with self._taking:
            for one in found:
                held = Held(one.uid, one.delivery.token, one.delivery.number)
                jobs.append(Job(source, one, held, *self._hands.hold(place, held, until=until)))
            if self.left is not None:
                self.left -= len(jobs)
        return jobs

    # -- sent ahead

    def send(self, source: Source, finished: Sequence[Finished], n: int) -> None:
        """Ack at once what is finished, and claim up to n items with it; 0: none. The replies are to be collected."""
        queue, held = source.queue, [one.job.held for one in finished]
        for one in finished:
            self._hands.sent(one.job.record)
        stream = self._streams[queue.link]
        if n:
            self._slot.seq += 1
            call = queue.claim(self._names[source], lease=source.lease, n=n, acks=held)
            self._hands.ask(self._sources.index(source), self._slot.seq)
            about = _Asked(source, n, finished)
            self.asked = stream.send(call, queue=queue.label, slot=self._slot, about=about)
        else:
            stream.send(operations.ack(queue.keys, held), queue=queue.label, about=(source, finished))

    def collect(self, answer: Answer, last: Sent[Any] | None = None) -> None:
        """Read the replies to what was sent, all or up to the last; what got none is sent again in its slot."""
        self._hands.read()
        collected = [sent for stream in self._streams.values() for sent in stream.collect(last)]
        self.asked = None  # which is among them in any case
        for sent in collected:
            if isinstance(sent.about, _Asked) and sent.result is None:
                # Nothing of it is being read.
                self._hands.ask(self._sources.index(sent.about.source), sent.slot.seq)
        for sent in collected:
            if isinstance(sent.about, _Asked):
                self._claimed_ahead(sent, sent.about, answer)
            else:
                self._acked_ahead(sent, *sent.about)

    def _acked_ahead(self, sent: Sent[list[bool]], source: Source, finished: Sequence[Finished]) -> None:
        def acked(flags: Sequence[bool] | None) -> None:
            slots.give_back(sent.slot)
            self._settling.acked(finished, flags)

        if sent.result is None:
            self._errands.do(source.queue, sent.call, acked, slot=sent.slot)
        else:
            acked(sent.result)

    def _claimed_ahead(self, sent: Sent[ClaimReply], asked: _Asked, answer: Answer) -> None:
        if sent.result is None:
            self._make(sent.call, sent.slot, asked.again(), answer)
        else:
            self._take(sent.call, sent.slot, asked, sent.result, answer)

    # -- behind a wait

    def park(self, source: Source, n: int, seconds: float) -> Answer | None:
        """Wait with a claim behind the wait: the server carries it out as soon as that ends.

        So an item is here with the one reply. None: what came of the claim is not known; ``recall`` finds out.
        """
        queue, asked, answer = source.queue, _Asked(source, n), None
        call = queue.claim(self._names[source], lease=source.lease, n=n)
        self._parking.seq += 1
        try:
            wait = operations.wait([queue.keys], seconds)
            reply = queue.link.park(
                wait, call, seconds, slot=self._parking, queue=queue.label, interrupt=self._alarm.end
            )
            if reply is not None and not (asked.old and reply.found):
                self._hands.live()
                answer = Answer()
                self._add(source, n, reply, answer)
        except QueueUnavailable:
            self._wait_refused(seconds)
        finally:
            if answer is None:
                self._unsure = source
        return answer

    def recall(self, answer: Answer) -> None:
        """Take what the claim behind the last wait took; if it is still on its way: nothing."""
        source, self._unsure = self._unsure, None

        def take(reply: ClaimReply | None) -> None:
            if source is not None and reply is not None:
                self._add(source, 0, reply, answer)

        if source is not None:
            call = source.queue.claim(self._names[source], lease=source.lease, n=0)
            self._errands.do(source.queue, call, take, slot=self._parking)  # the same number: it is carried out once

    def wait(self, seconds: float, sources: Sequence[Source]) -> Source | None:
        """Wait for a wake token, at most so many seconds; the source that it was for."""
        links = list(dict.fromkeys(source.queue.link for source in sources))
        # One blocked connection: several servers take turns.
        link = links[0] if len(links) == 1 else random.choice(links)
        mine = [source for source in sources if source.queue.link is link]
        share = seconds / len(links)
        try:
            command = operations.wait([source.queue.keys for source in mine], share)
            rung = link.wait(command, share, queue=mine[0].queue.label, interrupt=self._alarm.end)
        except QueueUnavailable:
            self._wait_refused(share)
            return None
        self.refused = False
        return next((source for source in mine if source.queue.keys["wake"] == rung), None)

    def _wait_refused(self, seconds: float) -> None:
        """The next claim says what is wrong, unless it is allowed what the wait was not; none goes behind the next."""
        self.refused = True
        self._alarm.pause(min(seconds, LONGEST_PAUSE))


def claim_slots(consumer: str) -> tuple[bytes, bytes]:
    """The slots of a worker's claims; its supervisor closes them when it died."""
    return consumer.encode(), f"{consumer}.w".encode()
