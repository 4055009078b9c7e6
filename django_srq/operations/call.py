"""Call: a call of a script, or a plain command, packed in the wire protocol (RESP)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from django_srq.operations.scripts import MOST_BYTES, Script, key_types

T = TypeVar("T")

BATCH = 1000  # items in one call, at most: it limits how long one script runs


@dataclass(frozen=True)
class Keys:
    """The keys of one queue: ``srq:<name>:…``, or ``srq:{<name>}:…`` so that a cluster keeps them in one slot."""

    name: str
    cluster: bool = False
    # Not a cached_property: in Python 3.11 it has a lock, which a fork may leave locked in the child for ever.
    _heads: dict[tuple[bytes, bytes], tuple[int, bytes]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __str__(self) -> str:
        return f"srq:{{{self.name}}}" if self.cluster else f"srq:{self.name}"

    def __getitem__(self, key: str) -> str:
        return f"{self}:{key}"

    def head(self, command: bytes, script: bytes) -> tuple[int, bytes]:
        """The arguments with which all calls of a script begin: their number, and they themselves, packed."""
        head = self._heads.get((command, script))
        if head is None:
            names = [self[key].encode() for key in key_types()]
            parts = [command, script, b"%d" % len(names), *names]
            head = len(parts), b"".join(_packed(parts))
            if command.startswith(b"EVALSHA"):  # a head with a script's text is long, and seldom needed
                self._heads[command, script] = head
        return head


class _Numbers(dict[int, bytes]):
    """Numbers, formatted in advance: to format a number takes longer than the rest of packing an argument."""

    def __init__(self, form: bytes) -> None:
        super().__init__({number: form % number for number in range(1024)})
        self._form = form

    def __missing__(self, number: int) -> bytes:
        return self._form % number


_COUNTS, _LENGTHS = _Numbers(b"*%d"), _Numbers(b"\r\n$%d\r\n")


def _packed(args: Sequence[bytes]) -> list[bytes]:
    """Arguments as bulk strings of the wire protocol, to be joined.

    The line end after an argument is packed with the length of the next one, so that it is missing after the last.
    """
    parts = []
    for arg in args:
        parts.append(_LENGTHS[len(arg)])
        parts.append(arg)
    return parts


class Call(NamedTuple, Generic[T]):
    """A call of a script, which may be sent any number of times. ``read`` turns the reply into the result."""

    script: Script
    keys: Keys
    args: tuple[bytes, ...]
    read: Callable[[Any], T]
    unknown: str = "call again: it is safe to repeat"  # in messages: what to do when the outcome is unknown

    def pack(self, slot: bytes, seq: int, *, whole: bool = False, read_only: bool = True) -> bytes:
        """The call in the wire protocol. slot, seq: which slot, and the number of the call in it (transport/slots.py).

        whole: with the script's text, for a server that does not know the script. read_only: send a script that only
        reads by EVALSHA_RO, for which a user needs only the right to read the keys.
        """
        script = self.script
        if script.writes or not read_only:
            count, head = self.keys.head(b"EVAL", script.text) if whole else self.keys.head(b"EVALSHA", script.sha)
        else:
            count, head = self.keys.head(*((b"EVAL_RO", script.text) if whole else (b"EVALSHA_RO", script.sha)))
        args = (slot, b"%d" % seq, *self.args) if script.writes else self.args
        return b"".join([_COUNTS[count + len(args)], head, *_packed(args), b"\r\n"])


@dataclass(frozen=True)
class Command(Generic[T]):
    """A plain command, where no script is needed; sent like a ``Call``."""

    args: tuple[bytes, ...]
    read: Callable[[Any], T]

    def pack(self, slot: bytes = b"", seq: int = 0, *, whole: bool = False, read_only: bool = True) -> bytes:
        return b"".join([_COUNTS[len(self.args)], *_packed(self.args), b"\r\n"])


def cut(things: Iterable[T], sizes: Iterable[int], most: int = BATCH) -> Iterator[list[T]]:
    """Batches of the things, in their order. sizes: of the things, in bytes.

    A batch has at most so many things, and at most MOST_BYTES besides its first thing.
    """
    batch: list[T] = []
    more = 0
    for thing, size in zip(things, sizes, strict=True):
        if batch and (len(batch) == most or more + size > MOST_BYTES):
            yield batch
            batch, more = [], 0
        more += size if batch else 0
        batch.append(thing)
    if batch:
        yield batch
