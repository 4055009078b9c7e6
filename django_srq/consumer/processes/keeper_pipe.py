"""The pipe over which the supervisor talks to its keeper: lines that say what to do, and log records as JSON."""

from __future__ import annotations

import json
import logging
import os
import select

logger = logging.getLogger("django_srq.consumer")

# The commands of the supervisor; any other line is a log record. When the pipe ends, the supervisor has died.
BEAT, STOPPING, END, END_SOON = b"beat\n", b"stopping\n", b"end\n", b"end soon\n"
_CUT = 150  # characters that are kept of a message, and of an error, if the record is too long for one write to a pipe


class KeeperPipe:
    """The supervisor's end of the pipe. Writing does not block: a line for which the pipe has no room is dropped."""

    def __init__(self) -> None:
        self.fd: int | None = None  # None: the keeper does not live
        self._dropped = 0  # log records for which there was no room

    def open(self) -> tuple[int, int]:
        """Open a new pipe. Returns the keeper's end and the supervisor's."""
        keepers_end, self.fd = os.pipe()
        os.set_blocking(self.fd, False)
        return keepers_end, self.fd

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
        self.fd = None

    def write(self, line: bytes) -> bool:
        """Whether the line was written as a whole."""
        try:
            return self.fd is not None and os.write(self.fd, line) == len(line)
        except OSError:  # the keeper died; or it was stopped, and the pipe is full
            return False

    def write_record(self, record: logging.LogRecord) -> None:
        """Write a log record, or count it as dropped; how many were dropped is written when there is room again."""
        if self._dropped:
            notice = logger.makeRecord(
                logger.name, logging.WARNING, __file__, 0, "log records dropped count=%d", (self._dropped,), None
            )
            self._dropped = 0 if self.write(pack(notice)) else self._dropped
        if not self.write(pack(record)):
            self._dropped += 1


def pack(record: logging.LogRecord) -> bytes:
    """A record as a line that is short enough for a pipe to take it as a whole or not at all."""
    error = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
    fields = {**vars(record), "msg": record.getMessage(), "args": None, "exc_info": None, "exc_text": error}
    line = json.dumps(fields, default=str).encode()
    if len(line) >= select.PIPE_BUF:
        short = {name: fields[name] for name in ("name", "levelno", "levelname", "created", "msecs", "process")}
        line = json.dumps({**short, "msg": fields["msg"][:_CUT], "exc_text": error and error[-_CUT:]}).encode()
    return line + b"\n"


def unpack(line: bytes) -> logging.LogRecord:
    """ValueError: the record was cut, as the pipe was almost full."""
    return logging.makeLogRecord(json.loads(line))
