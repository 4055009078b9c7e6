"""The handlers of all peers: they write when marked items were handled. stdlib only, for the peers' environments."""

import os
import time

_path = os.environ.get("BENCH_MARKS", os.devnull)
_marks = {int(number) for number in os.environ.get("BENCH_AT", "").split()}
_file = None
HOLDING = int(os.environ.get("BENCH_HOLDING", 0))  # items to keep in flight at the same time: no handler returns
LONG = 3600  # seconds


def _write(line):
    global _file
    if _file is None or _file[0] != os.getpid():
        _file = os.getpid(), os.open(_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_file[1], line.encode())


def handled(number):
    """The handler of a drain: does nothing, but writes the time when a marked item came."""
    if HOLDING:
        time.sleep(LONG)
    if number in _marks:
        _write(f"{number} {time.monotonic()}\n")


def arrived(sent):
    """The handler of a hand-off; sent: time.monotonic() at the put, a clock that all processes of a machine share."""
    _write(f"{time.monotonic() - sent}\n")
