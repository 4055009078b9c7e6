"""Names: looks up the addresses of a server's host within a time limit.

``getaddrinfo`` has no limit: when a name server is silent, it takes seconds for each try and search domain. So it runs
in a thread, one for each name at a time, and the callers wait for it as long as their own time limits allow. The
addresses that the last lookup found are kept, and used when a later one fails or takes long.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias

from django_srq.runtime.clock import monotonic
from django_srq.runtime.process import PerProcess
from django_srq.transport.connection_errors import NameUnresolved

PATIENCE = 1.0  # seconds that a lookup may take before the addresses known so far are used
_SHARE = 0.25  # the same as a share of the caller's time, if that is less

Host: TypeAlias = tuple[str, int, int]  # name, port, address family (0: any)
Address: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, Any]  # family, type, protocol, of the socket
_Outcome: TypeAlias = "list[Address] | OSError"


class _Lookup:
    """A lookup that is under way. Any number of callers may wait for it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.since = monotonic()
        self.outcome: Future[_Outcome] = Future()
        self.outcome.set_running_or_notify_cancel()  # a caller that gives up does not cancel it for the others

    def start(self) -> None:
        self.thread = threading.Thread(target=self.run, name="srq-names", daemon=True)
        try:
            self.thread.start()
        except RuntimeError:  # no thread can be started, as at the end of the process
            self.run()

    def wait(self, seconds: float) -> _Outcome:
        """The outcome; TimeoutError after so many seconds."""
        outcome = self.outcome.result(seconds)
        if self.thread.ident is not None:
            self.thread.join(0.1)  # the thread is about to end, and a process that forks should have no other threads
        return outcome

    def run(self) -> None:
        outcome: _Outcome
        try:
            outcome = _known[self.host] = _by_merit(self.host, _looked_up(self.host))
        except (OSError, UnicodeError) as error:  # UnicodeError: the text is no host name
            outcome = error if isinstance(error, OSError) else OSError(str(error))
        _under_way.get().pop(self.host, None)
        self.outcome.set_result(outcome)

    def patience(self, seconds: float) -> float:
        """Seconds that a caller waits for the lookup, of the seconds that the caller has."""
        if self.host not in _known:
            return max(seconds, 0)
        # Counted from the beginning of the lookup: one that hangs delays the first caller, and none after it.
        return max(min(seconds * _SHARE, PATIENCE) - (monotonic() - self.since), 0)


_known: dict[Host, list[Address]] = {}  # found by the last lookup that succeeded
_best: dict[Host, Address] = {}  # the address with which a connection was made last
# Of this process alone: a forked child has no thread that would end the lookups of its parent.
_under_way: PerProcess[dict[Host, _Lookup]] = PerProcess(lambda inherited: {})


def addresses(host: Host, seconds: float) -> Sequence[Address]:
    """The addresses of a host. NameUnresolved: none is known within so many seconds. OSError: the lookup failed."""
    if (found := _literal(host)) is not None:
        return found
    lookup = _lookup(host)
    try:
        outcome = lookup.wait(lookup.patience(seconds))
    except TimeoutError:
        outcome = NameUnresolved(host[0])  # type: ignore[assignment]
    return _usable(host, outcome)


async def aaddresses(host: Host, seconds: float) -> Sequence[Address]:
    """``addresses`` in an event loop. Not in the loop's own threads: a loop that ends waits for those."""
    if (found := _literal(host)) is not None:
        return found
    lookup = _lookup(host)
    try:
        async with asyncio.timeout(lookup.patience(seconds)):
            outcome = await asyncio.wrap_future(lookup.outcome)
    except TimeoutError:
        outcome = NameUnresolved(host[0])  # type: ignore[assignment]
    return _usable(host, outcome)


def is_unresolved(host: Host) -> bool:
    """Whether no address of a host is known, and a lookup is under way."""
    return host not in _known and host in _under_way.get()


def prefer(host: Host, address: Address) -> None:
    """Try an address of a host first the next time, as a connection was made with it."""
    _best[host] = address


def known() -> dict[Host, list[Address]]:
    """The addresses that lookups found, for another process to ``learn``."""
    return _known.copy()


def learn(found: Mapping[Host, list[Address]]) -> None:
    """Take over the addresses that lookups of another process found."""
    _known.update(found)


def _literal(host: Host) -> Sequence[Address] | None:
    """The address of a host that is given as an address; None for a name. Looks nothing up."""
    try:
        return _looked_up(host, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None


def _looked_up(host: Host, flags: int = 0) -> list[Address]:
    name, port, family = host
    found = socket.getaddrinfo(name, port, family, socket.SOCK_STREAM, 0, flags)
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]


def _lookup(host: Host) -> _Lookup:
    under_way = _under_way.get()
    lookup = under_way.get(host)
    if lookup is None:
        mine = _Lookup(host)
        lookup = under_way.setdefault(host, mine)  # of two threads, one starts its lookup, and both wait for it
        if lookup is mine:
            mine.start()
    return lookup


def _by_merit(host: Host, found: list[Address]) -> list[Address]:
    return sorted(found, key=lambda address: address != _best.get(host))


def _usable(host: Host, outcome: _Outcome) -> Sequence[Address]:
    if not isinstance(outcome, Exception):
        return outcome
    if (known := _known.get(host)) is not None:
        return _by_merit(host, known)
    if isinstance(outcome, OSError):
        raise type(outcome)(*outcome.args)  # each caller gets an error of its own, with its own traceback
    raise outcome
