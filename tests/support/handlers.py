"""Handlers for the tests of the consumer. They write a log file, and wait for files, so that a test can follow them."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import gc
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from django.db import connection
from django.utils import timezone, translation

from django_srq import Discard, Item, Reject, RetryLater


def _say(word: str) -> None:
    # A single write, so that lines of several processes stay whole.
    with Path(os.environ["SRQ_TEST_LOG"]).open("a") as log:
        log.write(f"{word}\n")


def note(payload: object, item: Item) -> None:
    _say(f"{payload} {item.deliveries}")


def beginning(payload: str, item: Item) -> None:
    """Logs only the beginning of a payload that is too large for the log."""
    _say(f"{payload[:1]} {len(payload)} {item.deliveries}")


def beginnings(payloads: list[str], items: list[Item]) -> None:
    for payload, item in zip(payloads, items, strict=True):
        beginning(payload, item)


def slow(payload: object, item: Item) -> None:
    """Logs that it began, and ends when the file SRQ_TEST_GO exists."""
    _say(f"begin {payload} {item.deliveries}")
    while not Path(os.environ["SRQ_TEST_GO"]).exists():
        time.sleep(0.005)
    _say(f"end {payload} {item.deliveries}")


def failing(payload: object) -> None:
    raise LookupError(f"cannot handle {payload}")


async def asynchronous(payload: object) -> None:
    _say(f"{payload} async")


def timed(payload: object) -> None:
    _say(f"{timezone.now():%Y-%m-%d %H:%M:%S}")


def leaving(payload: object) -> None:
    sys.exit(5)


def counting(payload: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def connecting(payload: str) -> None:
    counting(payload)
    _say(f"{os.getpid()} {payload} {has_open(os.getpid(), Path(connection.settings_dict['NAME']))}")


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    found = set()
    for end in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # the file was closed meanwhile
            found.add(os.readlink(end))
    return str(path) in found


def told(payload: dict[str, object], item: Item) -> object:
    """On the first delivery, does the deed that the payload names. So a test has the whole story in one place."""
    do = payload["do"]
    again = item.deliveries > 1 and payload.get("once", True)
    _say(f"{payload.get('name', do)} {item.deliveries} {os.getpid()} {'' if again else do}".rstrip())
    return None if again else DEEDS[str(do)](payload, item)


def together(payloads: list[dict[str, object]], items: list[Item]) -> None:
    """Does the deed that the first payload names."""
    told(payloads[0], items[0])


def one_by_one(payloads: list[dict[str, object]], items: list[Item]) -> None:
    """Does the deed of each payload, in turn."""
    for payload, item in zip(payloads, items, strict=True):
        told(payload, item)


def _wait_for_word(payload: dict[str, object], item: Item) -> None:
    word = Path(os.environ["SRQ_TEST_GO"]).with_name(f"go-{payload.get('word', 'on')}")
    while not word.exists():
        time.sleep(0.005)
    _say(f"{payload.get('name', 'wait')} went on lost={item.lease_lost}")


def _raise(payload: dict[str, object], item: Item) -> None:
    _wait_for_word(payload, item)
    raise LookupError(payload["do"])


def _hold_the_gil(payload: dict[str, object], item: Item) -> None:
    # PyDLL keeps the interpreter's lock during the calls: open waits for a writer of the FIFO, read waits for its data.
    c = ctypes.PyDLL(None)
    c.read(c.open(str(payload["until"]).encode(), os.O_RDONLY), ctypes.create_string_buffer(100), 100)
    _say(f"released lost={item.lease_lost}")


def _hold_the_gil_later(payload: dict[str, object], item: Item) -> None:
    def hold() -> None:
        _wait_for_word(payload, item)
        _hold_the_gil(payload, item)

    threading.Thread(target=hold, daemon=True).start()


def _hold_the_gil_alone(payload: dict[str, object], item: Item) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    _hold_the_gil(payload, item)


def _kill_all(payload: dict[str, object], item: Item) -> None:
    """Kills the supervisor and itself, as a container dies that has no memory left."""
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _sleep_with_the_gil(payload: dict[str, object], item: Item) -> None:
    ctypes.PyDLL(None).usleep(int(payload["microseconds"]))  # type: ignore[call-overload]


def _dirty(payload: dict[str, object], item: Item) -> None:
    found = (translation.get_language(), timezone.get_current_timezone_name(), _VARIABLE.get(), len(connection.queries))
    _say(f"found {found}")
    translation.activate("de")
    timezone.activate("Asia/Tokyo")
    _VARIABLE.set("dirty")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _age(payload: dict[str, object], item: Item) -> None:
    """Logs whether the database connection of its thread is open, and leaves the connection older than CONN_MAX_AGE."""
    _say(f"open {connection.connection is not None}")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close_at = time.monotonic() - 1


def _retry(payload: dict[str, object], item: Item) -> None:
    raise RetryLater(payload["delay"], "not yet")  # type: ignore[arg-type]


def _discard(payload: dict[str, object], item: Item) -> None:
    raise Discard("nobody wants it")


def _reject(payload: dict[str, object], item: Item) -> None:
    raise Reject("nobody can handle it")


def _grow(payload: dict[str, object], item: Item) -> None:
    _HELD.append(b"x" * int(payload["bytes"]))  # type: ignore[call-overload]


def _leave_a_thread(payload: dict[str, object], item: Item) -> None:
    """Returns, so that the item is acked, and leaves a thread for which Python waits before the process ends."""
    _grow({"bytes": payload.get("bytes", 0)}, item)
    threading.Thread(target=_wait_for_word, args=[payload, item]).start()


def _frozen(payload: dict[str, object], item: Item) -> None:
    modules = sum(type(each) is type(os) for each in gc.get_objects())  # get_objects leaves out the frozen ones
    _say(f"frozen {gc.get_freeze_count() > 0} {modules < len(sys.modules)}")


_VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")
_HELD: list[bytes] = []
DEEDS = {
    "nothing": lambda payload, item: None,
    "wait": _wait_for_word,
    "hold the GIL": _hold_the_gil,
    "hold the GIL later": _hold_the_gil_later,
    "hold the GIL alone": _hold_the_gil_alone,
    "suspend": lambda payload, item: os.kill(os.getpid(), signal.SIGSTOP),
    "kill all": _kill_all,
    "sleep with the GIL": _sleep_with_the_gil,
    "SIGKILL": lambda payload, item: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda payload, item: ctypes.string_at(0),
    "abort": lambda payload, item: os.abort(),
    "exit": lambda payload, item: os._exit(7),
    "exit 0": lambda payload, item: os._exit(0),
    "raise": _raise,
    "dirty": _dirty,
    "frozen": _frozen,
    "age": _age,
    "retry": _retry,
    "discard": _discard,
    "reject": _reject,
    "grow": _grow,
    "leave a thread": _leave_a_thread,
}


async def gathering(payload: object) -> None:
    """Ends when as many of its calls run at the same time as the payload says."""
    global _gathered
    _gathered += 1
    while _gathered < payload:  # type: ignore[operator]
        await asyncio.sleep(0.005)
    _say(f"gathered {threading.current_thread().name}")


async def giving_up(payload: str) -> None:
    """Exits or is cancelled, as the payload says; any other payload is handled normally."""
    if payload == "exit":
        sys.exit(5)
    elif payload == "cancelled":
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(0)
    _say(f"{payload} went on")


async def waiting_asynchronously(payload: dict[str, object], item: Item) -> None:
    """As ``told`` with the deed "wait", on the event loop."""
    again = item.deliveries > 1 and payload.get("once", True)
    _say(f"{payload['name']} {item.deliveries} {os.getpid()} {'' if again else 'wait'}".rstrip())
    while not again and not Path(os.environ["SRQ_TEST_GO"]).with_name("go-on").exists():
        await asyncio.sleep(0.005)


async def asking_the_database(payload: object) -> None:
    from django.contrib.auth.models import User

    _say(f"users {await User.objects.acount()}")


_gathered = 0


def batch(payloads: list[str]) -> dict[int, Exception]:
    _say(" ".join(payloads))
    if "die" in payloads:
        os._exit(3)
    return {place: ValueError(payload) for place, payload in enumerate(payloads) if payload == "bad"}
