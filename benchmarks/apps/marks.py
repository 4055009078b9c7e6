"""What every handler tells: when certain items were handled. It runs in each peer's environment: stdlib only."""

import os
import time

_path = os.environ.get("BENCH_MARKS", os.devnull)
_marks = {int(number) for number in os.environ.get("BENCH_AT", "").split()}
_file = None
HOLDING = int(os.environ.get("BENCH_HOLDING", 0))  # items that are to be in flight at one time: none ends
LONG = 3600  # seconds


def _write(line):
    global _file
    if _file is None or _file[0] != os.getpid():
        _file = os.getpid(), os.open(_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_file[1], line.encode())


def handled(number):
    """The handler of a drain: does nothing, but says when certain items came."""
    if HOLDING:
        time.sleep(LONG)
    if number in _marks:
        _write(f"{number} {time.monotonic()}\n")


def arrived(sent):
    """The handler of a hand-off; sent: time.monotonic() of the put, one clock for all processes of a machine."""
    _write(f"{time.monotonic() - sent}\n")
