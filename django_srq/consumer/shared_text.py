"""A short text in memory that processes share: one process writes it, others read it."""

from __future__ import annotations

import mmap
from ctypes import Structure, c_uint8, c_uint16, sizeof

_MOST = 1022  # bytes


class SharedText(Structure):
    _fields_ = (("_length", c_uint16), ("_bytes", c_uint8 * _MOST))

    @classmethod
    def allocate(cls) -> SharedText:
        """A text in memory of its own, which is shared with the processes that this one forks later."""
        return cls.from_buffer(mmap.mmap(-1, sizeof(cls)))

    def write(self, text: str) -> None:
        written = text.encode(errors="replace")[:_MOST]
        self._length = 0  # a process that reads meanwhile finds no text, rather than a mixture of two
        self._bytes[: len(written)] = written
        self._length = len(written)

    def __str__(self) -> str:
        return bytes(self._bytes)[: self._length].decode(errors="replace")
