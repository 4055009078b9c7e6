"""A call of a script, or a plain command, in the wire protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from django_srq.operations.scripts import MOST_BYTES, Script, key_types

T = TypeVar("T")

BATCH = 1000  # items in one call at most: bounds how long one script runs


@dataclass(frozen=True)
class Keys:
    """The keys of one queue: ``srq:<name>:…``, or ``srq:{<name>}:…`` so that a cluster keeps them in one slot."""

    name: str
    cluster: bool = False
    # Not a cached_property, which until Python 3.12 has a lock: a fork while it is held would leave it so in the child.
    _heads: dict[tuple[bytes, bytes], tuple[int, bytes]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __str__(self) -> str:
        return f"srq:{{{self.name}}}" if self.cluster else f"srq:{self.name}"

    def __getitem__(self, key: str) -> str:
        return f"{self}:{key}"

    def head(self, command: bytes, script: bytes) -> tuple[int, bytes]:
        """What all calls of a script have in common, packed, and of how many arguments it consists."""
        head = self._heads.get((command, script))
        if head is None:
            names = [self[key].encode() for key in key_types()]
            parts = [command, script, b"%d" % len(names), *names]
            head = len(parts), b"".join(_packed(parts))
            if command.startswith(b"EVALSHA"):  # the others are long, and needed once
                self._heads[command, script] = head
        return head


class _Numbers(dict[int, bytes]):
    """Numbers in the wire protocol: to format one costs more than to pack an argument."""

    def __init__(self, form: bytes) -> None:
        super().__init__({number: form % number for number in range(1024)})
        self._form = form

    def __missing__(self, number: int) -> bytes:
        return self._form % number


_COUNTS, _LENGTHS = _Numbers(b"*%d"), _Numbers(b"\r\n$%d\r\n")


def _packed(args: Sequence[bytes]) -> list[bytes]:
    """Bulk strings of the wire protocol, to be joined.

    The end of each is written before the next; that of the last is missing.
    """
    parts = []
    for arg in args:
        parts.append(_LENGTHS[len(arg)])
        parts.append(arg)
    return parts


class Call(NamedTuple, Generic[T]):
    """One operation, ready to be sent as often as it takes; ``read`` turns its reply into the result."""

    script: Script
    keys: Keys
    args: tuple[bytes, ...]
    read: Callable[[Any], T]
    unknown: str = "call again: it is safe to repeat"  # what to do when the outcome is unknown

    def pack(self, slot: bytes, seq: int, *, whole: bool = False, read_only: bool = True) -> bytes:
        """The command in the wire protocol; whole: with the script's text, for a server that does not know it.

        read_only: a script that only reads goes by the command for those: then the right to read the keys is enough.
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
    """A plain command beside the scripts; sent like a ``Call``."""

    args: tuple[bytes, ...]
    read: Callable[[Any], T]

    def pack(self, slot: bytes = b"", seq: int = 0, *, whole: bool = False, read_only: bool = True) -> bytes:
        return b"".join([_COUNTS[len(self.args)], *_packed(self.args), b"\r\n"])


def cut(things: Iterable[T], sizes: Iterable[int], most: int = BATCH) -> Iterator[list[T]]:
    """In batches of so many at most, and of MOST_BYTES more than the first of each at most, by their sizes (bytes)."""
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
