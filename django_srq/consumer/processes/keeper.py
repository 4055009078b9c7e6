"""The keeper: a process beside the children that renews the leases of the items they have in hand.

The supervisor cannot do that itself: it may have to wait, such as for a fork, or a person may stop it; and as it forks,
it must have no threads. The keeper never forks. It has a thread for each server, for the log and for the heartbeat
file: so if one thread or the supervisor is blocked, no other lease ends. If the keeper itself is stopped or killed, the
children renew their leases themselves until it is back.

If the supervisor is killed, the keeper lives on as long as the children. So a child whose handler holds the
interpreter's lock keeps its leases, and the keeper enforces its limits.
"""

from __future__ import annotations

import gc
import json
import logging
import mmap
import os
import select
import signal
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from django_srq.consumer.leases import LAST_LINES, Leases
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.log_thread import LogThread
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.probes import Heartbeat
from django_srq.consumer.processes import groups
from django_srq.consumer.processes.orphan import LOOK, Orphan
from django_srq.consumer.subscription import Subscription

logger = logging.getLogger("django_srq.consumer")

NAME = "srq-keeper"  # as ps and top show it
# The lines that the supervisor writes to the keeper; any other line is a log record, as JSON. When the pipe ends, the
# supervisor has died.
BEAT, STOPPING, END = b"beat\n", b"stopping\n", b"end\n"
UP = b"u"  # what the keeper writes when it is ready
PATIENCE = 2.0  # seconds for its start, and for its end
AGAIN = 1.0  # seconds at least between two starts
_LENGTH = struct.Struct("=H")
_WORDS_MOST = 1024  # bytes
_PLAN = ConsumerOptions()
_CUT = 150  # characters that are kept of a message, and of an error, if the record is too long for one write to a pipe


class Words:
    """A text in memory that is shared with forked processes: one process writes it, others read it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _LENGTH.size + _WORDS_MOST)

    def say(self, words: str) -> None:
        said = words.encode(errors="replace")[:_WORDS_MOST]
        _LENGTH.pack_into(self._memory, 0, 0)
        self._memory[_LENGTH.size : _LENGTH.size + len(said)] = said
        _LENGTH.pack_into(self._memory, 0, len(said))

    def __str__(self) -> str:
        (length,) = _LENGTH.unpack_from(self._memory)
        return self._memory[_LENGTH.size : _LENGTH.size + length].decode(errors="replace")


class Keeper:
    """The keeper. The supervisor calls the first methods; those under "its own side" run in the forked process."""

    def __init__(
        self,
        consumer: str,
        subscriptions: Sequence[Subscription],
        tables: Sequence[Ledger],
        *,
        about: Mapping[str, object],
        options: ConsumerOptions = _PLAN,
        heartbeat: Heartbeat | None,
        poke: Callable[[], None],
    ) -> None:
        """tables: the ledgers of all children, including those to come. poke: has the supervisor look at ``trouble``.

        about: further fields of the consumer's entry in the queues.
        """
        self._subscriptions, self._options = subscriptions, options
        self._tables, self._free = tables, deque(tables)
        self._leases = Leases(
            consumer, subscriptions, lambda: [table for table in tables if groups.lives(table.pid)], about=self._about
        )
        self._said, self._heartbeat, self._poke = dict(about), heartbeat, poke
        self._words = [Words() for _ in self._leases.servers]
        self._stopping = False
        self._dropped = 0  # log records for which the pipe had no room
        self.pid = 0
        self.line: int | None = None  # the pipe over which the supervisor talks to it; None: it does not live
        self.due = 0.0  # the moment from which on it may be started

    @property
    def trouble(self) -> str:
        """A trouble with a server, while it lasts; "" for none."""
        return next(filter(None, map(str, self._words)), "")

    def take_table(self, slot: bytes, number: int) -> Ledger:
        """Take a ledger for a new child; OSError when none is left. slot, number: see ``Ledger.empty``."""
        if not self._free:
            raise BlockingIOError("too many children are about to end")
        table = self._free.popleft()
        table.reset(slot, number)
        return table

    def give_back_table(self, table: Ledger) -> None:
        table.reset(b"", 0)  # it must not name a process id that the system may give to another process
        self._free.append(table)

    # -- the process

    @property
    def lives(self) -> bool:
        """Whether it was started and was not found to have ended."""
        return self.line is not None

    def start(self, fork: Callable[[], int], others: Iterable[int]) -> None:
        """Fork the keeper, and wait ``PATIENCE`` at most until it is ready. OSError: it cannot be forked.

        others: the pipes to the children. The keeper closes them: else the children would not notice the supervisor's
        death.
        """
        self.due = time.monotonic() + AGAIN
        reading, line = os.pipe()
        try:
            begun, beginning = os.pipe()
        except OSError:
            os.close(reading)
            os.close(line)
            raise
        self.line = line
        os.set_blocking(self.line, False)
        try:
            self.pid = fork()
        except OSError:
            self._hang_up()
            raise
        else:
            if self.pid == 0:
                self._be(reading, beginning, [self.line, begun, *others])
            os.close(beginning)
            beginning = -1
            _wait_for(begun, PATIENCE)  # from then on it has its name, and no signal ends it
            if self._stopping:
                self._tell(STOPPING)
        finally:
            for end in (reading, begun, beginning):
                if end >= 0:
                    os.close(end)

    def reap(self) -> bool:
        """Whether it has ended unasked since the last call. Then it can be started again."""
        if not self.lives or not self._ended():
            return False
        self._hang_up()
        return True

    def beat(self) -> None:
        """Tell the keeper that all is well, so that it touches the heartbeat file."""
        self._tell(BEAT)

    def stop(self) -> None:
        """Tell the keeper that the consumer is stopping; it renews the leases until ``end``."""
        self._stopping = True
        self._tell(STOPPING)

    def pass_on(self, record: logging.LogRecord) -> bool:
        """Have the keeper log a record of the supervisor's. Does not block. False: there is no keeper.

        If the pipe has no room, the record is dropped; their number is logged later.
        """
        if not self.lives:
            return False
        if self._dropped:
            notice = logger.makeRecord(
                logger.name, logging.WARNING, __file__, 0, "log records dropped count=%d", (self._dropped,), None
            )
            self._dropped = 0 if self._tell(_packed(notice)) else self._dropped
        if not self._tell(_packed(record)):
            self._dropped += 1
        return True

    def end(self) -> None:
        """Have the keeper end, wait for that (``PATIENCE`` + ``LAST_LINES`` at most, then kill it), and sign off.

        From then on nobody renews the leases, and the queues do not list the consumer any more.
        """
        if self.lives:
            self._tell(b"\n" + END)  # a newline first, in case the line before was cut
            give_up = time.monotonic() + PATIENCE + LAST_LINES
            while not (ended := self._ended()) and time.monotonic() < give_up:
                time.sleep(0.01)
            if not ended:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                self._ended()
            self._hang_up()
        self._leases.sign_off()

    def _ended(self) -> bool:
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # other code in this process has waited for it
            return True

    def _hang_up(self) -> None:
        if self.line is not None:
            os.close(self.line)
        self.line = None

    def _tell(self, words: bytes) -> bool:
        try:
            return self.line is not None and os.write(self.line, words) == len(words)
        except OSError:  # it died; or it was stopped, and the pipe is full
            return False

    # -- its own side

    def _be(self, line: int, beginning: int, others: Iterable[int]) -> None:
        """Work as the keeper, in the forked process; does not return."""
        code = 1
        try:
            gc.freeze()  # as in a child
            # A service manager or a terminal signals all processes of a consumer; the keeper is needed until the end.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for end in others:
                os.close(end)
            name_this_process(NAME)
            os.write(beginning, UP)
            os.close(beginning)
            self.serve(line)
            code = 0
        finally:
            os._exit(code)

    def serve(self, line: int) -> None:
        """Renew leases until the supervisor says ``END``, or has died and so have all its children. Blocks."""
        log = self._leases.log
        ended, pulse, heard = threading.Event(), Pulse(self._heartbeat, log), b""
        renewing = threading.Thread(target=self._renew_until, args=[ended], name="srq-keeper", daemon=True)
        renewing.start()
        while words := os.read(line, 65536):
            *lines, heard = (heard + words).split(b"\n")
            for said in lines:
                self._hear(said + b"\n", pulse, log)
            if END.strip() in lines:
                ended.set()
                renewing.join(PATIENCE)
                pulse.end(LAST_LINES)
                log.flush(LAST_LINES)
                return
        self._outlive_children()
        ended.set()
        renewing.join(PATIENCE)
        log.flush(LAST_LINES)

    def _outlive_children(self) -> None:
        """Look after the children of a supervisor that was killed, until the last of them has ended. Blocks."""
        self._stopping = True
        log = self._leases.log
        orphans = [
            Orphan(table.slot.decode(), self._subscriptions, table, self._options, log) for table in self._tables
        ]
        while orphans := [orphan for orphan in orphans if orphan.look(trouble=bool(self._leases.trouble))]:
            time.sleep(LOOK)

    def _hear(self, said: bytes, pulse: Pulse, log: LogThread) -> None:
        if said == BEAT:
            pulse.beat()
        elif said == STOPPING:
            self._stopping = True
        elif said != END:
            with suppress(ValueError):  # the record was cut, as the pipe was almost full
                log.handle(logging.makeLogRecord(json.loads(said)))

    def _renew_until(self, ended: threading.Event) -> None:
        for server, words in zip(self._leases.servers, self._words, strict=True):
            server.trouble = str(words)  # known by the keeper before this one; the server may be back
            server.met = partial(self._met, words)
        self._leases.renew_until(ended)

    def _met(self, words: Words, trouble: str) -> None:
        words.say(trouble)
        self._poke()

    def _about(self) -> Mapping[str, object]:
        return {**self._said, "state": "stopping"} if self._stopping else self._said


class Pulse:
    """Touches the heartbeat file in a thread of its own: a file system may take its time, or hang."""

    def __init__(self, heartbeat: Heartbeat | None, log: LogThread) -> None:
        self._heartbeat, self._log = heartbeat, log
        self._well, self._over, self._left = threading.Event(), threading.Event(), threading.Event()
        if heartbeat:
            threading.Thread(target=self._run, args=[heartbeat], name="srq-heartbeat", daemon=True).start()

    def beat(self) -> None:
        self._well.set()

    def end(self, seconds: float) -> None:
        """Delete the file. Waits for that for so many seconds at most."""
        if self._heartbeat:
            self._over.set()
            self._well.set()
            self._left.wait(seconds)

    def _run(self, heartbeat: Heartbeat) -> None:
        while self._well.wait():
            self._well.clear()
            try:
                if self._over.is_set():
                    heartbeat.end()
                    self._left.set()
                    return
                heartbeat.beat()
            except OSError as error:
                self._log.log(logging.ERROR, "no heartbeat: %s", error)


def _wait_for(end: int, seconds: float) -> None:
    """Wait until there is something to read, or until the other end is closed."""
    watched = select.poll()  # not select(), which knows only descriptors below 1024
    watched.register(end, select.POLLIN)
    watched.poll(seconds * 1000)


def _packed(record: logging.LogRecord) -> bytes:
    """A record as a line that is short enough for a pipe to take it as a whole or not at all."""
    error = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
    about = {**vars(record), "msg": record.getMessage(), "args": None, "exc_info": None, "exc_text": error}
    line = json.dumps(about, default=str).encode()
    if len(line) >= select.PIPE_BUF:
        kept = {name: about[name] for name in ("name", "levelno", "levelname", "created", "msecs", "process")}
        line = json.dumps({**kept, "msg": about["msg"][:_CUT], "exc_text": error and error[-_CUT:]}).encode()
    return line + b"\n"


def name_this_process(name: str) -> None:
    with suppress(OSError):  # no Linux
        Path("/proc/self/comm").write_text(name)
