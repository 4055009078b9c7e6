"""The supervisor: starts child processes, has their leases renewed, and settles their items when they die.

The supervisor runs no handler, opens no database connection, and has a single thread. It calls no server before its
end. Its keeper, a process beside the children, renews the leases: so nothing that holds up the supervisor ends a lease.
Its reporters, short-lived processes, tell the servers what became of items: so no silent server holds up the
supervisor.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django_srq import operations
from django_srq.consumer.ledger import FAILED, RUNNING, Entry, Ledger, Waiting
from django_srq.consumer.log import guarded
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.outage import Outage
from django_srq.consumer.probes import Heartbeat, interval, notify
from django_srq.consumer.processes import groups, postmortem
from django_srq.consumer.processes.child import Child, ChildMain
from django_srq.consumer.processes.keeper import Keeper
from django_srq.consumer.processes.reports import Report, Reports
from django_srq.consumer.processes.withdrawal import LOOK
from django_srq.consumer.signal_pipe import SignalPipe
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.claims import claim_slots
from django_srq.consumer.worker.retries import LAST_WORDS
from django_srq.consumer.worker.worker import Worker
from django_srq.operations import DeliveryRef
from django_srq.queue import failure
from django_srq.queue.safe_redis_queue import SafeRedisQueue

logger = guarded("django_srq.consumer")

SOON = 5.0  # seconds; a child that dies younger, having handled nothing, is replaced after a pause that grows
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds of that pause, from the second such death in a row on
NEVER_STARTED = 5  # deaths in a row of children that never looked for items, after which the supervisor gives up
ORDER = 1.0  # seconds at most that a new child waits until its predecessor's items are back in their places
LEFTOVERS_LOOK = 0.1  # seconds between looks at programs that handlers started and left at work
STUCK = 60.0  # seconds without an item in hand and without a look for items, after which a child counts as stuck
STOPS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class Place:
    """The place of a child: when a child leaves it, a successor takes it."""

    child: Child | None = None
    due: float = 0.0  # the moment from which on the next child may be started
    died: float = 0.0  # the moment at which the reports about its last child were made
    early: int = 0  # how many of its children in a row died young
    left: int | None = None  # items that its children may still handle; None: any number
    over: bool = False  # its work is done: no further child is started


class Supervisor:
    """A consumer of several processes; ``ConsumerOptions`` says how it works."""

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        options: ConsumerOptions,
        *,
        rest: Callable[[], None] = lambda: None,
        before_fork: Callable[[], None] = lambda: None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        """rest: called in each thread of a child before it waits for items.

        before_fork: called before each fork; closes the connections that the processes would share.
        """
        self._before_fork = before_fork
        self.id = f"c{secrets.token_hex(5)}"
        self._subscriptions, self._options, self._rest = subscriptions, options, rest
        self._places = [Place(left=left) for left in _shares(options)]
        self._leaving: list[Child] = []  # children that have left their places to successors
        self._to_replace: list[Child] = []  # children to be replaced, one after the other
        self._outage = Outage()
        self._events: deque[dict[str, Any]] = deque()  # Django signals that a child is to send
        self._signals = SignalPipe()
        self._reports = Reports(self._fork, poke=self._signals.poke, others=self._lines)
        self._leftovers = groups.Leftovers(options.grace)
        self._keeper = Keeper(
            self.id,
            subscriptions,
            # Two for each child, as its successor may start before it has ended.
            [Worker.table(subscriptions, options) for _ in range(2 * options.processes)],
            details={"processes": options.processes, "threads": options.threads, "concurrency": options.concurrency},
            options=options,
            heartbeat=heartbeat,
            wake_supervisor=self._signals.poke,
        )
        self._count = 0
        self._never_started = 0
        self._stopped_by: int | None = None
        self._stop_at: float | None = None  # the moment at which the grace is over
        self._cut = False
        self._ready = False
        self._next_beat = self._next_look = 0.0
        self.last_words = ""  # why it could not go on

    def run(self) -> int:
        """Work until stopped, or until the options say so. Returns the exit code. Blocks. Only for the main thread.

        1: it could not go on (``last_words``); 128 + number: a second signal; 75: running items were cut; else 0.
        """
        with self._signals, self._logging_beside():
            try:
                self._loop()
                return self._code()
            finally:
                for child in self._children():
                    child.kill("the supervisor broke")
                self._leftovers.end(latest=0)
                self._reports.end()
                self._keeper.end()

    @contextmanager
    def _logging_beside(self) -> Iterator[None]:
        """Have the keeper log the supervisor's records.

        A log may block. While the supervisor waited for it, it would not look after its children or handle signals.
        """
        pid = os.getpid()

        def is_logged_here(record: logging.LogRecord) -> bool:
            return os.getpid() != pid or not self._keeper.pass_on(record)

        logger.addFilter(is_logged_here)
        try:
            yield
        finally:
            logger.removeFilter(is_logged_here)

    def _loop(self) -> None:
        while True:
            self._start_keeper()
            self._start_missing()
            if not self._children() and not self._wanted() and not self._leftovers:
                break
            self._signals.wait(self._until_next())
            for number in self._signals.taken():
                self._on_signal(number)
            self._reap()
            self._enforce()
            self._tend()
        give_up = time.monotonic() + LAST_WORDS
        while self._reports and time.monotonic() < give_up:
            self._send_reports()
            self._signals.wait(max(0.0, min(self._reports.next_moment, give_up) - time.monotonic()))
            self._reports.hear()
            for number in self._signals.taken():
                self._on_signal(number)
                if number in STOPS and self._stop_at == 0:
                    return  # the items of reports that are not made come back when their leases end

    def _code(self) -> int:
        if self.last_words:
            return 1
        if self._stopped_by is not None and self._stop_at == 0:  # a second signal
            return 128 + self._stopped_by
        return 75 if self._cut else 0

    def _place_of(self, child: Child) -> Place | None:
        """The child's place; None: it has left its place to a successor."""
        return next((place for place in self._places if place.child is child), None)

    def _children(self) -> list[Child]:
        return [*(place.child for place in self._places if place.child is not None), *self._leaving]

    # -- starting

    def _wanted(self) -> list[Place]:
        """The places for which a child is to be started, now or later."""
        if self._stop_at is not None or self.last_words:
            return []
        return [place for place in self._places if place.child is None and not place.over]

    def _start_keeper(self) -> None:
        if not self._keeper.lives and time.monotonic() >= self._keeper.due:
            try:
                self._keeper.start(self._fork, [*self._lines(), *self._reports.lines])
            except OSError as error:  # until a keeper can be started, the children renew their leases themselves
                logger.error("cannot start the process that renews the leases: %s", error)

    def _start_missing(self) -> None:
        for place in self._wanted():
            if time.monotonic() >= self._due(place):
                try:
                    self._start(place)
                except OSError as error:  # no memory, or too many processes: the other children go on
                    logger.error("cannot start a child process: %s", error)
                    self._postpone(place)

    def _due(self, place: Place) -> float:
        """The moment from which on the next child of a place may be started."""
        return max(place.due, place.died + ORDER) if self._reports.untried(place.died) else place.due

    def _start(self, place: Place) -> None:
        self._count += 1
        id = f"{self.id}.{self._count}"
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed before Python began
            stream.flush()  # else the child would write the contents of the buffers once more
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        ledger: Ledger | None = None
        try:
            ledger = self._keeper.take_ledger(claim_slots(id)[0], self._count)
            pid = self._fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            if ledger is not None:
                self._keeper.give_back_ledger(ledger)
            raise
        if pid == 0:
            try:
                groups.lead()
                # With these ends open here, this process and others would not notice the supervisor's death: a pipe
                # ends only when its last writer has closed it.
                for line in (writing, *self._lines(), *self._reports.lines):
                    os.close(line)
                ledger.belong_to_this_process()
                self._child(id, ledger, reading, place.left).run()
            except BaseException:
                logger.exception("the child process failed to start")
            finally:
                os._exit(1)  # the child must not return into the supervisor's code
        os.close(reading)
        groups.lead(pid)  # the child does the same; the first of the two calls counts
        place.child = Child(id, pid, ledger, writing)

    def _lines(self) -> list[int]:
        """The ends of the pipes over which the supervisor talks to the children and the keeper."""
        lines = [*(child.line for child in self._children()), self._keeper.control_fd]
        return [line for line in lines if line is not None]

    def _fork(self) -> int:
        self._before_fork()  # each time: the project's log handlers may have opened connections since the last fork
        with self._signals.held():  # else a signal that reaches the child at once would be written into our pipe
            pid = os.fork()
            if pid == 0:
                self._forget_signals()
        return pid

    def _forget_signals(self) -> None:
        """In a child: stop taking the supervisor's signals.

        An error here ends the child, as it must never return into the supervisor's loop.
        """
        try:
            self._signals.forget()
        except BaseException:
            os._exit(1)

    def _child(self, id: str, ledger: Ledger, line: int, left: int | None) -> ChildMain:
        return ChildMain(
            id,
            self._subscriptions,
            ledger,
            self._options,
            line=line,
            poke=self._signals.poke,
            max_items=left,
            rest=self._rest,
        )

    # -- signals

    def _on_signal(self, number: int) -> None:
        if number in STOPS:
            self._stop(number)
        elif number == signal.SIGHUP:
            self._to_replace = [place.child for place in self._places if place.child is not None]

    def _stop(self, number: int) -> None:
        notify("STOPPING=1")
        if self._stop_at is not None:
            self._stopped_by, self._stop_at = number, 0  # the grace is over at once
            return
        self._stopped_by, self._stop_at = number, time.monotonic() + self._options.grace
        logger.info(
            "stopping: running handlers have %g s to finish; a second signal stops at once", self._options.grace
        )
        self._keeper.stop()
        for child in self._children():
            child.stop()
        self._leftovers.stop()

    # -- looking after the children

    def _until_next(self) -> float:
        """Seconds until there is something to do even if no signal or poke comes."""
        now = time.monotonic()
        moments = [self._next_beat, self._next_look, self._reports.next_moment]
        moments += [self._due(place) for place in self._wanted()]
        if not self._keeper.lives:
            moments.append(self._keeper.due)
        if self._stop_at is not None and self._stop_at > now:
            moments.append(self._stop_at)
        if self._leftovers:
            moments.append(now + LEFTOVERS_LOOK)
        if self._options.time_limit is not None:
            alive = [child for child in self._children() if not child.killed_for]
            running = [entry.started for child in alive for entry in child.ledger if entry.state == RUNNING]
            moments.append(min(running, default=now) + self._options.time_limit)
        return max(0.0, min(moments) - now)

    def _enforce(self) -> None:
        """Kill children and programs that take too long; replace the next child that is to be replaced."""
        now = time.monotonic()
        if self._stop_at is not None and now >= self._stop_at:
            for child in self._children():
                child.kill("stopped")
        if self._options.time_limit is not None:
            for child in self._children():
                self._enforce_limit(child, now - self._options.time_limit)
        for group in self._leftovers.end(float("inf") if self._stop_at is None else self._stop_at):
            logger.warning(
                "killed at the end of the grace period: programs that handlers started, in process group %d", group
            )
        self._make_way()
        while self._to_replace and self._has_room and not any(child.told_to_stop for child in self._children()):
            self._replace(self._to_replace.pop(0))

    def _enforce_limit(self, child: Child, latest: float) -> None:
        over = {entry.generation for entry in child.ledger if entry.state == RUNNING and entry.started <= latest}
        if over and not child.killed_for:
            child.over_limit = over
            child.kill(f"killed: an item took longer than the time limit of {self._options.time_limit:g} s")

    def _replace(self, child: Child) -> None:
        place = self._place_of(child)
        if place is None:
            return  # it has ended meanwhile
        child.stop()
        if place.left is None:  # else only its end shows how many items are left for its successor
            self._leaving.append(child)
            place.child = None

    @property
    def _has_room(self) -> bool:
        """Whether one more child may leave its place to a successor, so that children at most double in number."""
        return len(self._leaving) < self._options.processes

    def _make_way(self) -> None:
        """Give the places of children that take no more items to successors: their threads may go on for the grace."""
        for place in self._places:
            child = place.child
            if child and child.ledger.wants_successor and place.left is None and self._has_room:
                self._leaving.append(child)
                place.child = None

    def _reap(self) -> None:
        if self._keeper.reap():
            logger.error("the process that renews the leases ended, restarting it")
        for child in self._children():
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self._see_to_group(child, code)
                self._buried(child, code, _bytes(usage.ru_maxrss))
        self._reports.hear()
        groups.reap_orphans([self._keeper.pid, *self._reports.pids, *(child.pid for child in self._children())])

    def _see_to_group(self, child: Child, code: int) -> None:
        """Kill the programs that the handlers of a dead child started, or let them go on if it ended normally.

        After a death its items are delivered again, and these programs must not work at the same time.
        """
        if _died(child, code) or child.killed_for:
            groups.kill_group(child.pid)
        else:
            self._leftovers.add(child.pid)

    def _buried(self, child: Child, code: int, memory: int) -> None:
        os.close(child.line)
        place = self._place_of(child)
        if place is None:
            self._leaving.remove(child)
        else:
            self._vacate(place, child, code)
        if child.ledger.fatal and not self.last_words:
            self.last_words = child.ledger.trouble
            for other in self._children():
                other.stop()
        elif _died(child, code) and not child.killed_for:
            logger.error("child died consumer=%s pid=%d how=%s", child.id, child.pid, _how(code))
        self._account_for(child, child.killed_for or _how(code), memory, code)
        if place is not None:
            place.died = time.monotonic()
        self._keeper.give_back_ledger(child.ledger)
        self._send_reports()

    def _vacate(self, place: Place, child: Child, code: int) -> None:
        place.child = None
        if place.left is not None:
            # An item that it was handling when it died counts as handled, too.
            place.left -= child.ledger.handled + sum(entry.state in {RUNNING, FAILED} for entry in child.ledger)
            place.over = place.left <= 0
        died = _died(child, code)
        finished = not died and not child.told_to_stop and not child.ledger.wants_successor
        place.over = place.over or (finished and self._options.burst)
        # SIGKILL comes from outside: it does not say that the next child will not come up.
        killed = code == -signal.SIGKILL
        one_works = any(one.ledger.ready for one in [child, *self._children()]) or killed
        self._never_started = 0 if one_works else self._never_started + 1
        if self._never_started >= NEVER_STARTED:
            self.last_words = (
                f"No child process comes up: {NEVER_STARTED} in a row ended at once, the last {_how(code)}."
            )
        # A child that has handled items comes up: its death is the fault of its last item.
        blameless = child.ledger.handled or (killed and child.ledger.ready)
        at_once = died and not blameless and time.monotonic() - child.born < SOON
        place.early = place.early if at_once else -1
        self._postpone(place)

    def _postpone(self, place: Place) -> None:
        place.early += 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (place.early - 2)) if place.early > 1 else 0
        place.due = time.monotonic() + pause

    # -- the items of a dead child, and items that a living one cannot begin

    def _account_for(self, child: Child, how: str, memory: int, code: int) -> None:
        entries = list(child.ledger)
        stopped = child.killed_for == "stopped"
        unexplained = _died(child, code) and not child.killed_for
        self._cut = self._cut or (stopped and any(entry.state == RUNNING for entry in entries))
        for place, subscription in enumerate(self._subscriptions):
            mine = [entry for entry in entries if entry.subscription == place]
            self._settle(subscription, mine)
            running = [entry for entry in mine if entry.state in {RUNNING, FAILED}]
            # One call for each running item, with its own evidence. The last calls close the slots, and end the items
            # of a claim that were never written down: they were not started, but one may have killed the child, such
            # as a payload that is too large for its memory.
            for entry in running:
                suspect = not child.over_limit or entry.generation in child.over_limit
                # FAILED: the child was telling the server. If that took too long, the server is to blame, not the item.
                # But if the child died of itself, the item is.
                begun = entry.state == RUNNING or (unexplained and not child.ledger.fatal)
                blamed = not stopped and suspect and begun
                self._end(child, subscription, entry, how, memory, "crash" if blamed else "cut")
            unread = _unread_claims(child, place)
            for slot in claim_slots(child.id):
                mode = "crash" if unexplained and slot not in unread else "release"
                self._end(child, subscription, None, how, memory, mode, slot)

    def _withdraw(self) -> None:
        """Give back items that wait in a child which cannot begin them."""
        for child in self._children():
            if waiting := child.withdrawal.look():
                self._report_waiting(child, waiting)
                self._send_reports()

    def _report_waiting(self, child: Child, waiting: Iterable[Waiting]) -> None:
        found = [entry for one in waiting if (entry := child.ledger.entry_of(one))]
        claims = [(child.ledger.subscription_of(one), one) for one in waiting if one.record is None]
        for place, subscription in enumerate(self._subscriptions):
            queue = subscription.queue
            if held := [entry.held for entry in found if entry.subscription == place]:
                self._reports.append(Report(queue, operations.release(queue.keys, held)))
            for asked, claim in claims:
                if asked == place:
                    self._report_claim(child, queue, claim)

    def _report_claim(self, child: Child, queue: SafeRedisQueue, claim: Waiting) -> None:
        def given(items: int | None) -> None:
            if items is None:
                child.withdrawal.withdraw_again(claim)

        slot = claim_slots(child.id)[claim.parked]
        self._reports.append(Report(queue, operations.withdraw(queue.keys, slot, claim.number), given))

    def _settle(self, subscription: Subscription, entries: Sequence[Entry]) -> None:
        """Report the handled items as acked, and those not started as released.

        These calls come before the calls about running items: if the supervisor dies in between, no handled item is
        delivered again, and no item that was not started is blamed.
        """
        for call in postmortem.settlements(subscription.queue, entries):
            self._reports.append(Report(subscription.queue, call))

    def _end(
        self,
        child: Child,
        subscription: Subscription,
        entry: Entry | None,
        how: str,
        memory: int,
        mode: str,
        slot: bytes = b"",
    ) -> None:
        queue = subscription.queue
        run_time = time.monotonic() - entry.started if entry else 0.0
        evidence = failure.of_death(how, consumer=child.id, run_time=run_time, memory=memory)
        held = [entry.held] if entry else []
        call = postmortem.ending(queue, held, mode, evidence, slot=slot)
        if mode == "release":
            self._reports.append(Report(queue, call))
        else:
            self._reports.append(Report(queue, call, lambda reply: self._ended(queue, held, reply, evidence)))

    def _ended(
        self, queue: SafeRedisQueue, held: Sequence[DeliveryRef], reply: operations.CrashReply, evidence: bytes
    ) -> None:
        ended = {one.uid: state for one, state in zip(held, reply.states, strict=True) if state} | dict(reply.found)
        about = json.loads(evidence)
        for uid, state in ended.items():
            logger.warning("%s state=%s queue=%s uid=%s", about["message"], state, queue.alias, uid)
            name = {"ready": "item_recovered", "dead": "item_dead"}.get(state)
            if name:
                told = {"queue": queue.alias, "uid": uid, "consumer": about["consumer"], "evidence": about}
                self._events.append({"signal": name, "about": told})

    # -- reports to the servers, and signs of life for systemd and the heartbeat

    def _send_reports(self) -> None:
        """Start the reporters that are due; their replies are read later."""
        self._reports.send()

    def _tend(self) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK
            self._withdraw()
        self._send_reports()
        troubles = [child.ledger.trouble for child in self._children() if not child.ledger.fatal]
        self._outage.report(next(filter(None, [self._trouble, *troubles]), ""))
        self._pass_on_events()
        if not self._ready and all(child.ledger.ready for child in self._children()):
            self._ready = notify("READY=1")
        if now >= self._next_beat:
            self._next_beat = now + interval()
            self._beat(now)

    @property
    def _trouble(self) -> str:
        """A trouble with a server, while it lasts; "" for none."""
        return self._keeper.trouble or self._reports.trouble

    def _pass_on_events(self) -> None:
        """Have children send the Django signals, as many as their pipes have room for.

        First comes the rest of a line that did not fit before, such as a STOP.
        """
        for child in self._children():
            child.say_on()
        ready = [child for child in self._children() if child.ledger.ready and not child.killed_for]
        # A child that was told to stop may end before it sends them: it is chosen only if there is no other one.
        for child in [child for child in ready if not child.told_to_stop] or ready:
            while self._events and child.tell(json.dumps(self._events[0]).encode() + b"\n"):
                self._events.popleft()

    def _beat(self, now: float) -> None:
        stuck = [child for child in self._children() if now - child.ledger.last_beat > self._patience(child)]
        if stuck and all(child.ledger.ready for child in stuck) and not self._trouble:
            return
        notify("WATCHDOG=1")
        self._keeper.beat()

    def _patience(self, child: Child) -> float:
        """Seconds after its last look for items from which on a child counts as stuck."""
        if _is_at_work(child):
            return float("inf")
        return STUCK + self._options.grace if child.ledger.leaving else STUCK


def _shares(options: ConsumerOptions) -> list[int | None]:
    """How many items the children of each place may handle; None: any number."""
    if options.max_items is None:
        return [None] * options.processes
    each, more = divmod(options.max_items, options.processes)
    return [share for share in (each + (number < more) for number in range(options.processes)) if share]


def _died(child: Child, code: int) -> bool:
    """Whether a child died before its proper end. A handler that calls os._exit(0) leaves a running item behind."""
    return code != 0 or any(entry.state == RUNNING for entry in child.ledger)


def _unread_claims(child: Child, place: int) -> set[bytes]:
    """The slots of claims that may have taken items of a subscription (its index), and whose replies are not to blame.

    The child was not reading these replies when it died.
    """
    ledger, (own, parking) = child.ledger, claim_slots(child.id)
    sent = ledger.claiming is not None and not ledger.reading
    # A child repeats a claim that is owed, and may have been reading its reply. But if a handler was at work, that is
    # the likelier cause.
    at_work = any(entry.state in {RUNNING, FAILED} for entry in ledger)
    unread = {own} if sent or (at_work and any(owed == place for owed, _ in ledger.claims_put_off)) else set()
    return unread | {parking} if ledger.parked and not ledger.arriving else unread


def _is_at_work(child: Child) -> bool:
    """Whether it has items in hand or on their way. Both may last long."""
    return (
        any(child.ledger)
        or child.ledger.claiming is not None
        or bool(child.ledger.claims_put_off)
        or child.ledger.arriving
    )


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (" (by hand, or for want of memory)" if name == "SIGKILL" else "")


def _bytes(maxrss: int) -> int:
    return maxrss if sys.platform == "darwin" else maxrss * 1024
