"""Leases are renewed while something else blocks: a log, a file system, systemd, a server, or the supervisor itself."""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import socket
import sys
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from django_srq.consumer import Subscription
from django_srq.consumer.clock import lease_time
from django_srq.consumer.leases import Leases
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.log_thread import MOST, LogThread
from django_srq.consumer.probes import Heartbeat, notify
from django_srq.consumer.processes.keeper import Keeper
from django_srq.consumer.processes.keeper_pipe import BEAT, END, STOPPING, pack
from django_srq.operations import DeliveryRef
from tests.consumer.test_supervisor import began, children, keeper, taken, told
from tests.support.servers import Server
from tests.support.waiting import wait_for

__all__ = ["told"]
LEASE = 2.0  # seconds
LONG = 600


def kept(project, queue, client, uid: str) -> None:
    """Wait until a lease was renewed for longer than it lasts, and check that there was no second delivery."""
    first = client.zscore(queue.keys["leases"], uid)
    wait_for(lambda: client.zscore(queue.keys["leases"], uid) > first + 1100 * LEASE, "renewals beyond the lease")
    assert len(deliveries(project)) == 1


def deliveries(project) -> list[str]:
    """The lines that the handler of the item wrote at its begin."""
    return [line for line in project.lines() if line.startswith("it ") and "lost=" not in line]


def finished(project, queue) -> None:
    project.say("on")
    wait_for(lambda: "it went on lost=False" in project.lines(), "the end of it")
    wait_for(lambda: sum(queue.counts().values()) == 0, "the ack")
    assert len(deliveries(project)) == 1


def ended(process, code: int = 0) -> None:
    process.terminate()
    assert process.wait(60) == code


# -- things that may block


@contextmanager
def full_pipe():
    """Yields the writing end of a full pipe, and a function that begins to read it and returns what it read so far."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    words: list[bytes] = []

    def read_on() -> None:
        while word := os.read(reading, 65536):
            words.append(word)

    read = threading.Thread(target=read_on, daemon=True)

    def text() -> str:
        if read.ident is None:
            read.start()
        return b"".join(words).decode()

    try:
        yield writing, text
    finally:
        os.close(writing)
        if read.ident is not None:
            read.join(60)
        os.close(reading)


def test_a_log_that_nobody_reads_ends_no_lease(project, told, client):
    """Not even when the supervisor has something to log: the death of a child."""
    queue = told(LEASE=LEASE)
    uid = queue.put({"do": "wait", "name": "it"})
    with full_pipe() as (stderr, read):
        process = project.start("srq_consume", "--processes", "2", stderr=stderr)
        waiting = int(began(project, "it")[2])
        (idle,) = {*wait_for(lambda: len(children(process)) == 2 and children(process), "both")} - {waiting}
        os.kill(idle, signal.SIGKILL)
        kept(project, queue, client, uid)
        wait_for(lambda: len(set(children(process)) - {idle}) == 2, "another child")
        wait_for(lambda: "child died consumer=" in read() and f"pid={idle}" in read(), "a word about it")
        finished(project, queue)
        ended(process)


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_consumer_obeys_a_signal_while_nobody_reads_its_log(project, told, processes):
    queue = told()
    with full_pipe() as (stderr, _):
        process = project.start("srq_consume", "--processes", processes, stderr=stderr)
        wait_for(lambda: queue.snapshot().consumers, "the consumer")
        process.terminate()
        assert process.wait(60) == 0


def test_a_log_that_nobody_reads_while_items_are_handled_ends_no_lease(project, told, client):
    queue = told(LEASE=LEASE)
    with full_pipe() as (stderr, read):
        process = project.start("srq_consume", "--verbosity", "3", "--threads", "2", stderr=stderr)
        uid = queue.put({"do": "wait", "name": "it"})
        began(project, "it")
        queue.put_many({"do": "nothing"} for _ in range(200))
        wait_for(lambda: queue.snapshot().stats["delivered"] > 1, "another one, whose ack is logged")
        kept(project, queue, client, uid)
        read()
        finished(project, queue)
        ended(process)


def test_a_file_system_that_hangs_ends_no_lease(project, told, client):
    queue = told(LEASE=LEASE)
    fifo = project.folder / "fifo"
    os.mkfifo(fifo)  # to open it for writing blocks, like a file of a mount that hangs
    project.add_to_settings(
        "from django_srq.consumer.probes import Heartbeat\n"
        f"Heartbeat.beat = Heartbeat.end = lambda self: open({str(fifo)!r}, 'w')"
    )
    uid = queue.put({"do": "wait", "name": "it"})
    process = project.start("srq_consume", "--heartbeat-file", str(project.folder / "beat"))
    began(project, "it")
    kept(project, queue, client, uid)
    finished(project, queue)
    ended(process)


def test_a_systemd_that_does_not_read_ends_no_lease(project, told, client, monkeypatch, tmp_path):
    queue = told(LEASE=LEASE)
    address = str(tmp_path / "notify")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(address)
        fill(address)
        uid = queue.put({"do": "wait", "name": "it"})
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        process = project.start("srq_consume")
        began(project, "it")
        kept(project, queue, client, uid)
        systemd.settimeout(30)
        while systemd.recv(100) != b"READY=1":  # sent again until it is read
            pass
        finished(project, queue)
        ended(process)


def fill(address: str) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as other, suppress(BlockingIOError):
        other.setblocking(False)
        while True:
            other.sendto(b"x", address)


def test_a_message_for_which_systemd_has_no_room_is_reported_as_unsent(monkeypatch, tmp_path):
    address = str(tmp_path / "notify")
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify("READY=1")  # without NOTIFY_SOCKET, there is nothing to send
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify("READY=1")  # nobody listens there, now or later
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(address)
        assert notify("READY=1")
        fill(address)
        assert not notify("READY=1")


@contextmanager
def silent_servers(number: int):
    """The URLs of so many servers that accept connections and never answer."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        yield [f"redis://127.0.0.1:{server.getsockname()[1]}" for server in servers]
    finally:
        for server in servers:
            server.close()


def test_silent_servers_end_no_lease_on_another_server(project, server_url, prefix, client):
    """They are too many to be asked one after the other within a lease."""
    stopped = Server()
    handled = {"HANDLER": "tests.support.handlers.told", "LEASE": 4}  # seconds; as long as four calls may take
    try:
        with silent_servers(4) as urls:
            away = {f"away{number}": {**handled, "URL": url} for number, url in enumerate([stopped.url, *urls])}
            defaults = {"PREFIX": prefix + ".{alias}", "TIMEOUT": 1}
            project.configure({"here": {**handled, "URL": server_url}, **away}, defaults)
            queue = project.patient("here")
            uid = queue.put({"do": "wait", "name": "it"})
            process = project.start("srq_consume")
            began(project, "it")
            stopped.process.send_signal(signal.SIGSTOP)
            first = client.zscore(queue.keys["leases"], uid)
            renewed = lambda: client.zscore(queue.keys["leases"], uid) > first + 4400  # noqa: E731
            wait_for(lambda: queue.recover() or renewed(), "renewals beyond the lease")
            assert queue.snapshot().stats.get("recovered", 0) == 0
            finished(project, queue)
            project.kill(process)
    finally:
        stopped.process.send_signal(signal.SIGCONT)
        stopped.close()


# -- the processes themselves


@pytest.mark.parametrize("alone", [True, False], ids=["the supervisor", "the supervisor and its keeper"])
def test_a_stopped_supervisor_ends_no_lease(project, told, client, alone):
    queue = told(LEASE=LEASE)
    uid = queue.put({"do": "wait", "name": "it"})
    process = project.start("srq_consume", "--threads", "2")
    began(project, "it")
    stopped = [process.pid, *([] if alone else [keeper(process)])]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    kept(project, queue, client, uid)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    kept(project, queue, client, uid)
    finished(project, queue)
    queue.put({"do": "nothing", "name": "next"})
    began(project, "next")
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert ("renewing them in the child queue=told" in err) is not alone


def test_the_lease_of_a_dead_child_ends_although_its_supervisor_is_stopped(project, told):
    """Nobody has reported the death of the child, so the end of the lease brings the item back."""
    queue = told(LEASE=LEASE)
    queue.put({"do": "wait", "name": "it"})
    process = project.start("srq_consume")
    child = int(began(project, "it")[2])
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(child, signal.SIGKILL)
    item = wait_for(lambda: queue.get(-1), "the end of its lease")
    assert item.deliveries == 2
    assert queue.ack(item)
    os.kill(process.pid, signal.SIGCONT)
    queue.put({"do": "nothing", "name": "next"})
    began(project, "next")
    ended(process)


def test_a_keeper_that_dies_is_replaced(project, told, client):
    queue = told(LEASE=LEASE)
    uid = queue.put({"do": "wait", "name": "it"})
    process = project.start("srq_consume")
    began(project, "it")
    before = keeper(process)

    def described() -> list[dict[str, object]]:
        return [about for about in queue.snapshot().consumers.values() if "since" in about]  # not in the first entry

    (first,) = wait_for(described, "its description")
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: keeper(process) not in (None, before), "another one")
    kept(project, queue, client, uid)
    (second,) = wait_for(described, "its description by the other one")
    assert (second["pid"], first["pid"]) == (process.pid, process.pid)
    assert abs(second["since"] - first["since"]) < 1000
    # With more threads each fork would be dangerous: a lock that another thread holds stays locked in the child.
    assert len(list(Path(f"/proc/{process.pid}/task").iterdir())) == 1
    finished(project, queue)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert "the process that renews the leases ended" in err
    assert queue.snapshot().consumers == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_after_a_signal_to_all_processes_the_keeper_ends_last(project, told, client, number):
    """Service managers and terminals send signals this way."""
    queue = told(LEASE=LEASE)
    uid = queue.put({"do": "wait", "name": "it"})
    process = project.start("srq_consume")
    began(project, "it")
    pid = keeper(process)
    os.killpg(process.pid, number)
    first = client.zscore(queue.keys["leases"], uid)
    wait_for(lambda: client.zscore(queue.keys["leases"], uid) > first, "a renewal")
    assert keeper(process) == pid
    finished(project, queue)
    if number == signal.SIGHUP:
        process.terminate()
    assert process.wait(60) == 0
    assert not Path(f"/proc/{pid}").exists()


def test_a_keeper_ends_with_its_supervisor(project, told):
    queue = told()
    process = project.start("srq_consume")
    pid = wait_for(lambda: queue.snapshot().consumers and keeper(process), "the keeper")
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the keeper")


# -- the keeper by itself


@pytest.fixture
def serving(queue, tmp_path):
    """A keeper that serves in a thread; the test writes the messages of its supervisor."""
    pokes: list[int] = []
    keeper = Keeper(
        "c1",
        [Subscription(queue, print, lease=LONG)],
        [Ledger(1)],
        details={"processes": 1},
        heartbeat=Heartbeat(tmp_path / "beat"),
        wake_supervisor=lambda: pokes.append(1),
    )
    reading, keeper._pipe.fd = os.pipe()
    thread = threading.Thread(target=keeper._main.serve, args=[reading])
    thread.start()
    yield keeper
    os.close(keeper.control_fd)
    thread.join(60)
    os.close(reading)


def test_the_keeper_obeys_its_supervisor(serving, queue, tmp_path):
    beat = tmp_path / "beat"
    wait_for(lambda: queue.snapshot().consumers.get("c1"), "its entry")
    assert not beat.exists()
    serving.beat()
    wait_for(beat.exists, "a heartbeat")
    os.write(serving.control_fd, STOPPING)
    wait_for(lambda: serving._main._current_details() == {"processes": 1, "state": "stopping"}, "that it stops")
    os.write(serving.control_fd, BEAT + END)
    wait_for(lambda: not beat.exists(), "the end")


def test_the_keeper_logs_for_the_supervisor(serving, caplog):
    os.write(serving.control_fd, b'{"torn\n')
    record = logging.makeLogRecord({"name": "django_srq.consumer", "levelno": 30, "msg": "%s died", "args": ("it",)})
    long = logging.makeLogRecord({"levelno": 30, "msg": "x" * 10_000})
    assert serving.pass_on(record)
    assert serving.pass_on(long)

    def passed_on() -> list[str]:
        """The messages without the keeper's warning about its server."""
        return [message for message in caplog.messages if not message.startswith("the server has no append-only file")]

    wait_for(lambda: len(passed_on()) == 2, "both")
    assert passed_on()[0] == "it died"
    assert set(passed_on()[1]) == {"x"}


def test_the_keeper_logs_the_errors_of_the_supervisor(serving, caplog):
    try:
        raise ValueError("what went wrong")
    except ValueError:
        error = sys.exc_info()
    about = {"name": "django_srq.consumer", "levelno": 40, "exc_info": error}
    assert serving.pass_on(logging.makeLogRecord({**about, "msg": "it broke"}))
    assert serving.pass_on(logging.makeLogRecord({**about, "msg": "\N{COLLISION SYMBOL}" * 10_000}))
    wait_for(lambda: caplog.text.count("ValueError: what went wrong") == 2, "both")
    assert "it broke" in caplog.messages
    assert "\N{COLLISION SYMBOL}" in caplog.text


@pytest.mark.parametrize("character", ["x", "\N{COLLISION SYMBOL}", "\0", "\n", "\udc80"])
def test_a_log_record_for_the_keeper_fits_into_one_atomic_write(character):
    error = ValueError(character * 10_000)
    record = logging.makeLogRecord(
        {"msg": character * 10_000, "exc_info": (ValueError, error, None), "more": "x" * 5000}
    )
    packed = pack(record)
    assert len(packed) <= select.PIPE_BUF
    assert packed.count(b"\n") == 1


def test_the_keeper_reads_on_after_a_torn_line(queue):
    keeper = Keeper("c1", [Subscription(queue, print)], [], details={}, heartbeat=None, wake_supervisor=lambda: None)
    reading, keeper._pipe.fd = os.pipe()
    serving = threading.Thread(target=keeper._main.serve, args=[reading])
    serving.start()
    try:
        os.write(keeper.control_fd, b'{"torn')
        os.write(keeper.control_fd, b"\n" + END)
        serving.join(30)
        assert not serving.is_alive()
    finally:
        os.close(keeper.control_fd)
        serving.join(30)
        os.close(reading)


def test_log_records_that_do_not_fit_into_the_pipe_are_counted(queue):
    keeper = Keeper("c1", [Subscription(queue, print)], [], details={}, heartbeat=None, wake_supervisor=lambda: None)
    record = logging.makeLogRecord({"levelno": 30, "msg": "it died"})
    assert not keeper.pass_on(record)  # no keeper reads yet
    reading, keeper._pipe.fd = os.pipe()
    fcntl.fcntl(keeper.control_fd, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(keeper.control_fd, False)
    try:
        with suppress(BlockingIOError):
            while True:
                os.write(keeper.control_fd, b"x" * 4096)
        assert keeper.pass_on(record)
        assert keeper.pass_on(record)
        os.read(reading, 65536)
        assert keeper.pass_on(record)
        notice, last = os.read(reading, 65536).splitlines()
        assert (b"dropped count=2" in notice, b"it died" in last) == (True, True)
    finally:
        os.close(reading)
        os.close(keeper.control_fd)


def test_no_more_children_than_there_are_ledgers(queue):
    ledgers = [Ledger(1), Ledger(1)]
    keeper = Keeper(
        "c1", [Subscription(queue, print)], ledgers, details={}, heartbeat=None, wake_supervisor=lambda: None
    )
    first, second = (keeper.take_ledger(b"s%d" % number, number) for number in (1, 2))
    with pytest.raises(OSError, match="about to end"):
        keeper.take_ledger(b"s3", 3)
    index, generation = first.hold(0, DeliveryRef("a", "t"), until=lease_time() + LONG)
    (entry,) = first
    keeper.give_back_ledger(first)
    again = keeper.take_ledger(b"s3", 3)
    assert (again is first, again.slot, second.slot, list(again)) == (True, b"s3", b"s2", [])
    same, other = again.hold(0, DeliveryRef("b", "t"), until=lease_time() + LONG)
    again.renew(entry, 0)  # the reply about the former child's item comes late
    assert (same, other != generation, again.lapsed(same, other)) == (index, True, False)


# -- leases


def held(queue, *, until: float, count: int = 1) -> Ledger:
    """A ledger with items in hand, whose leases end then for all that it knows."""
    queue.put_many(str(number) for number in range(count))
    ledger = Ledger(count)
    for item in taken(queue, "c1.1", count):
        ledger.start(ledger.hold(0, DeliveryRef(item.uid, item.token), until=until)[0])
    return ledger


def test_a_late_renewal_is_logged_once(queue, caplog):
    ledger = held(queue, until=lease_time() + 1)
    leases = Leases("c1", [Subscription(queue, print, lease=LONG)], lambda: [ledger])
    leases.renew()
    wait_for(lambda: f"leases renewed late queue={queue.alias}" in caplog.text, "a word about it")
    leases.renew()
    assert queue.snapshot().consumers["c1"]["renewed_late"] == 1
    (entry,) = ledger
    ledger.renew(entry, lease_time() - 1)
    leases.renew()
    wait_for(lambda: caplog.text.count("leases renewed late") == 2, "another word")
    assert queue.snapshot().consumers["c1"]["renewed_late"] == 2


def test_a_child_renews_only_overdue_leases_and_is_not_registered(queue, client, caplog):
    ledger = held(queue, until=lease_time() + LONG * 0.6)
    (uid,) = client.hkeys(queue.keys["holders"])
    client.zadd(queue.keys["leases"], {uid: 1})
    leases = Leases("c1.1", [Subscription(queue, print, lease=LONG)], lambda: [ledger])
    (server,) = leases.servers
    server.renew_overdue()
    assert client.zscore(queue.keys["leases"], uid) == 1
    (entry,) = ledger
    ledger.renew(entry, lease_time() + LONG * 0.4)
    server.renew_overdue()
    server.renew_overdue()
    assert client.zscore(queue.keys["leases"], uid) > 1
    assert ledger.lapsed(entry.index, entry.generation) is False
    assert queue.snapshot().consumers == {}
    wait_for(lambda: "renewing them in the child" in caplog.text, "a word about it")


def test_keeper_and_child_may_renew_at_the_same_time(queue, client):
    ledger = held(queue, until=lease_time() + 1, count=20)
    both = [Leases(name, [Subscription(queue, print, lease=LONG)], lambda: [ledger]) for name in ("c1", "c1.1")]
    threads = [threading.Thread(target=lambda leases=leases: [leases.renew() for _ in range(50)]) for leases in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ledger.lapsed(entry.index, entry.generation) for entry in ledger] == [False] * 20
    assert queue.snapshot().stats["delivered"] == 20
    assert queue.audit() == []


def test_a_queue_that_its_server_refuses_ends_no_lease_of_another_queue_there(make_queue, client):
    broken, other = make_queue("1"), make_queue("2")
    other.put("a")
    (item,) = taken(other, "c1.1", 1)
    client.hset(broken.keys["meta"], "layout", "99")
    ledger = Ledger(1)
    ledger.hold(1, DeliveryRef(item.uid, item.token), until=0)
    leases = Leases(
        "c1", [Subscription(broken, print, lease=LONG), Subscription(other, print, lease=LONG)], lambda: [ledger]
    )
    leases.renew()
    assert "layout has version 99" in leases.trouble
    (entry,) = ledger
    assert not ledger.lapsed(entry.index, entry.generation)


# -- the log


@pytest.fixture
def blocked():
    """A logger whose handler blocks until the test opens a gate, and the records that came through."""
    logger, gate, records = logging.getLogger("tests.blocked"), threading.Event(), []

    class Blocking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            gate.wait(60)
            records.append(record)

    handler = Blocking()
    logger.addHandler(handler)
    logger.propagate = False
    yield logger, gate, records
    gate.set()
    logger.removeHandler(handler)


def test_no_caller_waits_for_a_log_that_blocks(blocked):
    logger, gate, records = blocked
    log = LogThread(logger)
    log.flush(60)  # nothing was logged
    log.log(logging.DEBUG, "nobody wants to know")
    for number in range(MOST + 10):
        log.log(logging.ERROR, "number %d", number)
    log.flush(0.001)
    gate.set()
    wait_for(lambda: any("dropped" in record.getMessage() for record in records), "a word about what was dropped")
    log.flush(60)
    said = [record.getMessage() for record in records if "dropped" not in record.getMessage()]
    assert said == [f"number {number}" for number in range(len(said))]
    dropped = [record.args[0] for record in records if "dropped" in record.getMessage()]
    assert len(said) + sum(dropped) == MOST + 10


def test_renewing_does_not_wait_for_the_log(queue, client, blocked, monkeypatch):
    """In the consumer without child processes, all threads share one log."""
    logger, _, _ = blocked
    monkeypatch.setattr("django_srq.consumer.leases.logger", logger)
    ledger = held(queue, until=lease_time() + 1, count=2)
    lost, other = ledger
    client.hset(queue.keys["holders"], lost.held.uid, "g1/99")
    leases = Leases("c1", [Subscription(queue, print, lease=LONG)], lambda: [ledger])
    for _ in range(3):
        leases.renew()
    assert ledger.lapsed(lost.index, lost.generation)
    assert not ledger.lapsed(other.index, other.generation)
