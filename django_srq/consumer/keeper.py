"""The keeper: a process of the supervisor's that renews the leases of what its children have in hand.

The supervisor itself may have to wait: for a log, or a server that it tells what became of items; or somebody stops it.
And as it forks, it is to have no threads. The keeper never forks, and has a thread for each server, for the log and for
the heartbeat file. So whatever blocks one of them, or the supervisor, no other lease ends. When the keeper itself is
stopped or killed, the children renew for themselves until it is back.
"""

from __future__ import annotations

import gc
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

from django_srq.consumer.hands import Hands
from django_srq.consumer.leases import LAST_LINES, Leases
from django_srq.consumer.log_thread import LogThread
from django_srq.consumer.probes import Heartbeat
from django_srq.consumer.source import Source

logger = logging.getLogger("django_srq.consumer")

NAME = "srq-keeper"  # as ps and top show it
BEAT, STOPPING, END = b"b", b"s", b"e"  # what the supervisor says to it; when its line ends, the supervisor died
UP = b"u"  # what it says when it has begun
PATIENCE = 2.0  # seconds for its beginning, and for its end
AGAIN = 1.0  # seconds at least between two starts
_LENGTH = struct.Struct("=H")
_WORDS_MOST = 1024  # bytes


class Words:
    """A text in memory that is shared with forked processes: one writes, others read."""

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
    """The keeper as its supervisor knows it."""

    def __init__(
        self,
        consumer: str,
        sources: Sequence[Source],
        tables: Sequence[Hands],
        *,
        about: Mapping[str, object],
        heartbeat: Heartbeat | None,
        poke: Callable[[], None],
    ) -> None:
        """tables: of all children, those to come included. poke: has the supervisor look at the trouble."""
        self._tables, self._free = tables, deque(tables)
        self._leases = Leases(
            consumer, sources, lambda: [table for table in tables if _lives(table.pid)], about=self._about
        )
        self._said, self._heartbeat, self._poke = dict(about), heartbeat, poke
        self._words = [Words() for _ in self._leases.servers]
        self._stopping = False
        self._pid = 0
        self.line: int | None = None  # the pipe over which it is told things
        self.due = 0.0  # the moment from which on it may be started

    @property
    def trouble(self) -> str:
        """With a server, while it lasts."""
        return next(filter(None, map(str, self._words)), "")

    def take_table(self, slot: bytes, number: int) -> Hands:
        """A table for a new child; OSError when none is left."""
        if not self._free:
            raise BlockingIOError("too many children are about to end")
        table = self._free.popleft()
        table.empty(slot, number)
        return table

    def give_back_table(self, table: Hands) -> None:
        self._free.append(table)

    # -- the process

    @property
    def lives(self) -> bool:
        """Whether it was started and has not ended since."""
        return self.line is not None

    def start(self, fork: Callable[[], int], others: Iterable[int]) -> None:
        """others: lines to the children, which would not notice the supervisor's death if the keeper had them too."""
        self.due = time.monotonic() + AGAIN
        reading, self.line = os.pipe()
        begun, beginning = os.pipe()
        os.set_blocking(self.line, False)
        try:
            self._pid = fork()
        except OSError:
            self._hang_up()
            raise
        else:
            if self._pid == 0:
                self._be(reading, beginning, [self.line, begun, *others])
            os.close(beginning)
            beginning = -1
            select.select([begun], [], [], PATIENCE)  # then it is known by its name, and no signal ends it
            if self._stopping:
                self._tell(STOPPING)
        finally:
            for end in (reading, begun, beginning):
                if end >= 0:
                    os.close(end)

    def reap(self) -> bool:
        """Whether it ended unasked just now."""
        if not self.lives or not self._ended():
            return False
        self._hang_up()
        return True

    def beat(self) -> None:
        """All is well."""
        self._tell(BEAT)

    def stop(self) -> None:
        """The consumer is stopping; the leases are renewed until ``end``."""
        self._stopping = True
        self._tell(STOPPING)

    def end(self) -> None:
        """No lease is to be kept any more. Waits for its end, but not for ever; then the consumer is known no more."""
        if self.lives:
            self._tell(END)
            give_up = time.monotonic() + PATIENCE + LAST_LINES
            while not (ended := self._ended()) and time.monotonic() < give_up:
                time.sleep(0.01)
            if not ended:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
                self._ended()
            self._hang_up()
        self._leases.sign_off()

    def _ended(self) -> bool:
        try:
            return os.waitpid(self._pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # somebody else waited for it
            return True

    def _hang_up(self) -> None:
        if self.line is not None:
            os.close(self.line)
        self.line = None

    def _tell(self, words: bytes) -> None:
        if self.line is not None:
            with suppress(OSError):  # it died; or it was stopped, and has enough to read
                os.write(self.line, words)

    # -- its own side

    def _be(self, line: int, beginning: int, others: Iterable[int]) -> None:
        """In the forked process, which ends here."""
        code = 1
        try:
            gc.freeze()  # as in a child
            # A service manager and a terminal tell all processes of a consumer; this one is needed until the last.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for end in others:
                os.close(end)
            _name_this_process(NAME)
            os.write(beginning, UP)
            os.close(beginning)
            self.serve(line)
            code = 0
        finally:
            os._exit(code)

    def serve(self, line: int) -> None:
        """Renew until the supervisor says that it is enough, or is gone."""
        ended, pulse = threading.Event(), Pulse(self._heartbeat)
        renewing = threading.Thread(target=self._renew_until, args=[ended], name="srq-keeper", daemon=True)
        renewing.start()
        while words := os.read(line, 4096):
            self._stopping = self._stopping or STOPPING in words
            if BEAT in words:
                pulse.beat()
            if END in words:
                ended.set()
                renewing.join(PATIENCE)
                pulse.end(LAST_LINES)
                return

    def _renew_until(self, ended: threading.Event) -> None:
        for server, words in zip(self._leases.servers, self._words, strict=True):
            server.trouble = str(words)  # of the keeper before: it may be over
            server.met = partial(self._met, words)
        self._leases.renew_until(ended)

    def _met(self, words: Words, trouble: str) -> None:
        words.say(trouble)
        self._poke()

    def _about(self) -> Mapping[str, object]:
        return {**self._said, "state": "stopping"} if self._stopping else self._said


class Pulse:
    """Touches the heartbeat file in a thread of its own: a file system may take its time, or hang."""

    def __init__(self, heartbeat: Heartbeat | None) -> None:
        self._heartbeat = heartbeat
        self._log = LogThread(logger)
        self._well, self._over, self._left = threading.Event(), threading.Event(), threading.Event()
        if heartbeat:
            threading.Thread(target=self._run, args=[heartbeat], name="srq-heartbeat", daemon=True).start()

    def beat(self) -> None:
        self._well.set()

    def end(self, seconds: float) -> None:
        """The file is deleted, unless that takes longer."""
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


def _lives(pid: int) -> bool:
    """Whether that child does, for all that is known. The supervisor may not have noticed its death yet."""
    if not pid:
        return False  # it has not begun
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # no Linux: a dead one that was not waited for counts as well
        return True
    return state not in (b"Z", b"X")


def _name_this_process(name: str) -> None:
    with suppress(OSError):  # no Linux
        Path("/proc/self/comm").write_text(name)
