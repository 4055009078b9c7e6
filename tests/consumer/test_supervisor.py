"""srq_consume as a supervisor with child processes: deaths, stops, limits, and the fate of the items."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from django_srq import operations, queues
from django_srq.consumer import ConsumerOptions, Subscription, Supervisor
from django_srq.consumer.clock import lease_time
from django_srq.consumer.leases import Leases
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.probes import interval
from django_srq.consumer.processes.child_handle import STOP, ChildExit, ChildHandle
from django_srq.consumer.processes.keeper_main import NAME
from django_srq.consumer.processes.reports import attempts
from django_srq.consumer.processes.seats import LONGEST_PAUSE, Seat, Seats
from django_srq.operations import DeliveryRef
from tests.support.decoding import decoded
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import PATIENT, parked, wait_for

LONG = 600  # seconds; a lease that does not end during a test
# For the settings of a command: no wait on the server ends by itself.
PATIENT_WAITS = f"""
from django_srq.consumer.worker.waits import Waits
parking = Waits.park
Waits.park = lambda self, source, n, seconds: parking(self, source, n, {LONG})
"""


@pytest.fixture
def told(project, server_url, prefix):
    """A queue whose items name the deed of their handler, with a long lease: an item that comes back was given back."""

    def make(**options: object):
        queue = {"HANDLER": "tests.support.handlers.told", "LEASE": LONG, "BACKOFF": {"base": 1000}, **options}
        project.configure({"told": queue}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
        return project.patient("told")

    return make


def children(process) -> list[int]:
    """The ids of the child processes of a command, without its keeper."""
    return [pid for pid in offspring(process) if leads(pid)]


def keeper(process) -> int | None:
    return next((pid for pid in offspring(process) if name_of(pid) == NAME), None)


def offspring(process) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in tasks.read_text().split()]


def leads(pid: int) -> bool:
    """Whether the process leads a process group, as each child does. (The keeper gets its name only after a while.)"""
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def began(project, name: str) -> re.Match[str]:
    """The line that the handler of an item wrote at its begin; its groups are the delivery and the process id."""
    pattern = re.compile(rf"{name} (\d+) (\d+)\b.*")
    return wait_for(lambda: next(filter(None, map(pattern.fullmatch, reversed(project.lines()))), None), name)


def empty(queue) -> bool:
    return sum(queue.counts().values()) == 0


# -- a child dies


def test_the_item_of_a_dead_child_is_delivered_again_at_once(project, told):
    queue = told()
    deaths = {
        "SIGKILL": "killed by SIGKILL",
        "SIGSEGV": "killed by SIGSEGV",
        "abort": "killed by SIGABRT",
        "exit": "ended with exit code 7",
        "exit 0": "ended with exit code 0",
    }
    uids = queue.put_many([{"do": deed, "name": f"it{number}"} for number, deed in enumerate(deaths)])
    queue.put({"do": "nothing", "name": "next"})
    code, _, err = project.run("srq_consume", "--burst")  # the exit code is not that of a child
    assert code == 0
    # Each item has its old place, although its lease would have lasted longer.
    assert [line.split()[:2] for line in project.lines()] == [
        *([f"it{number}", delivery] for number in range(len(deaths)) for delivery in "12"),
        ["next", "1"],
    ]
    died = re.findall(r"child died consumer=\S+ pid=\d+ how=", err)
    assert len(died) == len(deaths)
    for uid, how in zip(uids, deaths.values(), strict=True):
        assert f"how={how}" in err
        assert re.search(f"uid={uid} state=ready error=Crashed reason=the process was {how}", err)
    assert queue.snapshot().stats["crashed"] == len(deaths)
    assert queue.snapshot().consumers == {}
    assert empty(queue)
    assert queue.audit() == []


def test_no_forked_process_makes_a_script(project, told):
    """It would take some milliseconds, in which the items of a dead child wait for their next delivery."""
    queue = told()
    project.add_to_settings(
        "import os\nfrom django_srq.operations import scripts\nstripped = scripts._stripped\n"
        "def say_and_strip(text):\n    from tests.support.handlers import _say\n"
        "    _say(f'made {os.getpid()}')\n    return stripped(text)\nscripts._stripped = say_and_strip"
    )
    queue.put_many([{"do": "exit", "name": "it"}, {"do": "raise"}])
    project.say("on")
    process = project.start("srq_consume", "--max-items", "3")
    process.communicate(timeout=60)
    assert queue.snapshot().stats["crashed"] == queue.snapshot().stats["failed"] == 1
    assert {line for line in project.lines() if line.startswith("made")} == {f"made {process.pid}"}


def test_an_item_that_keeps_killing_is_set_aside_with_the_evidence(project, told):
    queue = told(MAX_CRASHES=2)
    uid = queue.put({"do": "exit", "once": False})
    queue.put({"do": "nothing", "name": "next"})
    assert project.run("srq_consume", "--burst")[0] == 0
    (dead,) = queue.items("dead")
    error = dead.delivery.error
    assert (dead.uid, dead.delivery.crashes, error["type"]) == (uid, 2, "Crashed")
    assert "ended with exit code 7 after" in error["message"]
    assert error["memory"] > 1_000_000
    assert error["run_time"] >= 0
    assert re.fullmatch(r"c[0-9a-f]{10}\.\d+", error["consumer"])
    assert project.lines()[-1].startswith("next 1")


def test_an_item_that_was_handled_but_not_acked_when_the_child_died_is_acked(queue):
    queue.put_many("abc")
    done, unstarted, running = taken(queue, "c1.1", 3)
    ledger, supervisor = Ledger(4), Supervisor([Subscription(queue, print)], ConsumerOptions())
    for item in (done, unstarted, running):
        ledger.hold(0, DeliveryRef(item.uid, item.token), until=lease_time() + LONG)
    ledger.start(0)
    ledger.finish(0)
    ledger.start(2)
    account_for(supervisor, ChildHandle("c1.1", 0, ledger, 0))
    found = [*queue.get_many(3), *queue.get_many(3)]  # an item that was in hand comes alone
    assert [(item.uid, item.deliveries) for item in found] == [(unstarted.uid, 1), (running.uid, 2)]
    assert queue.snapshot().stats["acked"] == 1
    assert queue.snapshot().stats["crashed"] == 1


@pytest.mark.parametrize(("why", "code", "crashes"), [("", -9, 1), ("", 1, 1), ("stopped", -9, 0), ("", 0, 0)])
def test_a_death_during_the_report_of_a_failure_blames_the_item_unless_we_caused_it(queue, why, code, crashes):
    """With code 0, the child ended by itself, but could not report, because the server was away."""
    uid = queue.put("a")
    (item,) = taken(queue, "c1.1", 1)
    ledger, supervisor = Ledger(1), Supervisor([Subscription(queue, print)], ConsumerOptions())
    ledger.hold(0, DeliveryRef(item.uid, item.token), until=lease_time() + LONG)
    ledger.start(0)
    ledger.fail(0)
    account_for(supervisor, ChildHandle("c1.1", 0, ledger, 0, kill_reason=why), code=code)
    assert [(item.uid, item.deliveries, item.delivery.crashes) for item in queue.items()] == [(uid, 1, crashes)]


def test_an_item_that_a_child_claimed_but_did_not_record_comes_back(queue):
    uid = queue.put("a")
    supervisor = Supervisor([Subscription(queue, print)], ConsumerOptions())
    slot = operations_slot("c1.1")
    claim = queue.claim("c1.1", lease=LONG)
    assert queue.link.call(claim, queue="q", slot=slot).found[0].uid == uid
    account_for(supervisor, ChildHandle("c1.1", 0, Ledger(1), 0))
    assert [(item.uid, item.delivery.crashes) for item in queue.items()] == [(uid, 1)]


@pytest.mark.parametrize("begun", [False, True])
def test_a_child_may_have_died_of_an_item_claimed_behind_a_wait_once_it_read_the_reply(queue, begun):
    uid = queue.put("a")
    supervisor, ledger = Supervisor([Subscription(queue, print)], ConsumerOptions()), Ledger(1, slot=b"c1.1")
    ledger.park(1, LONG)
    ledger.arriving = begun
    queue.link.call(queue.claim("c1.1", lease=LONG), queue="q", slot=operations_slot("c1.1.w"))
    account_for(supervisor, ChildHandle("c1.1", 0, ledger, 0))
    assert [(item.uid, item.delivery.crashes) for item in queue.items()] == [(uid, int(begun))]


def test_an_item_that_a_child_never_knew_of_is_released_when_it_ends(make_queue, caplog):
    """No log and no signal report this, as for items that it had not begun: nothing happened to them."""
    queue = make_queue(max_deliveries=1)
    uid = queue.put("a")
    supervisor = Supervisor([Subscription(queue, print)], ConsumerOptions())
    queue.link.call(queue.claim("c1.1", lease=LONG), queue="q", slot=operations_slot("c1.1"))
    account_for(supervisor, ChildHandle("c1.1", 0, Ledger(1), 0), code=0)
    assert not caplog.messages
    assert not supervisor._events.waiting
    item = queue.get(-1)
    assert (item.uid, item.deliveries) == (uid, 1)
    assert queue.snapshot().stats.get("crashed", 0) == 0


def test_a_claim_that_arrives_after_the_report_of_a_death_is_refused(queue):
    queue.put("a")
    supervisor = Supervisor([Subscription(queue, print)], ConsumerOptions())
    account_for(supervisor, ChildHandle("c1.1", 0, Ledger(1), 0))
    with pytest.raises(Exception, match="SRQLATE"):
        queue.link.call(queue.claim("c1.1", lease=LONG), queue="q", slot=operations_slot("c1.1"))
    assert len(queue) == 1


@pytest.mark.parametrize("how", ["crash", "cut", "release"])
def test_a_renewal_after_the_report_of_a_death_takes_nothing_back(queue, how):
    """Two processes make these calls: the keeper renews, and the supervisor's reporter reports."""
    uid = queue.put("a")
    (item,) = taken(queue, "c1.1", 1)
    held = [DeliveryRef(item.uid, item.token)]
    report = operations.crashed(queue.keys, held, evidence=b'{"type": "Crashed", "message": ""}', how=how)
    queue.link.call(report, queue="q")
    assert queue.link.call(operations.extend(queue.keys, held, lease=LONG), queue="q") == [False]
    (again,) = queue.items("ready")
    assert (again.uid, again.delivery.crashes) == (uid, int(how == "crash"))
    assert queue.audit() == []


def taken(queue, consumer: str, n: int):
    call = queue.claim(consumer, lease=LONG, n=n)
    return decoded(queue, queue.link.call(call, queue=queue.alias).found)


def account_for(supervisor: Supervisor, child: ChildHandle, *, code: int = -9) -> None:
    supervisor._post_mortem.examine(ChildExit(child, code, 0))
    wait_for(lambda: reported(supervisor), "the reports to be taken")


def reported(supervisor: Supervisor) -> bool:
    """Do in this process what the supervisor's reporters do; returns whether all reports are made."""
    reports = list(supervisor._reports)
    for outcome in attempts(reports):
        supervisor._reports.settle(reports[outcome.position], outcome)
    return not supervisor._reports


def operations_slot(name: str):
    from django_srq.transport.slots import Slot

    return Slot(name.encode(), 1)


def test_renewing_goes_on_after_an_error_in_one_round(queue, monkeypatch, caplog):
    leases, ended, rounds = Leases("c1", [Subscription(queue, print, lease=LONG)], list), threading.Event(), []

    def renew() -> None:
        rounds.append(1)
        if len(rounds) == 1:
            raise ValueError("odd")
        ended.set()

    (server,) = leases.servers
    server.interval = 0.001
    monkeypatch.setattr(server, "renew", renew)
    leases.renew_until(ended)
    assert len(rounds) == 2
    wait_for(lambda: "cannot renew the leases" in caplog.text, "a word about it")


def test_a_lease_counts_from_before_its_renewal_was_sent(queue, monkeypatch):
    """The process may be suspended between the server's reply and the time when it reads the reply."""
    queue.put("a")
    (item,) = taken(queue, "c1.1", 1)
    ledger = Ledger(1)
    index, generation = ledger.hold(0, DeliveryRef(item.uid, item.token), until=0)
    leases = Leases("c1", [Subscription(queue, print, lease=LONG)], lambda: [ledger])
    leases.renew()
    assert not ledger.lapsed(index, generation)
    call, clock_gettime = queue.link.call, time.clock_gettime

    def suspended_after(*args: object, **kwargs: object) -> object:
        reply = call(*args, **kwargs)
        monkeypatch.setattr(time, "clock_gettime", lambda clock: clock_gettime(clock) + LONG)
        return reply

    monkeypatch.setattr(queue.link, "call", suspended_after)
    leases.renew()
    assert not leases.trouble
    assert ledger.lapsed(index, generation)


def test_a_trouble_lasts_until_the_server_answers(told):
    server = Server()
    try:
        subscription = Subscription(told(URL=server.url, TIMEOUT=1), print, lease=LONG)
        leases = Leases("c1", [subscription], list)
        wait_for(lambda: leases.renew() or not leases.trouble, "the server")
        (met,) = leases.servers
        met.trouble = "the keeper before met it"
        server.kill()
        leases.renew()  # although there is nothing to renew, and the server was asked just now
        assert "queue=told" in leases.trouble
        server.start()
        wait_for(lambda: leases.renew() or not leases.trouble, "the end of the trouble")
    finally:
        server.close()


def test_a_server_that_was_away_gets_the_report_later(told):
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    try:
        queue = told(URL=server.url, TIMEOUT=1)
        uid = queue.put({})
        supervisor = Supervisor([Subscription(queue, print, lease=LONG)], ConsumerOptions())
        (item,) = taken(queue, "c1.1", 1)
        ledger = Ledger(1)
        ledger.hold(0, DeliveryRef(item.uid, item.token), until=lease_time() + LONG)
        ledger.start(0)
        server.kill()
        supervisor._post_mortem.examine(ChildExit(ChildHandle("c1.1", 0, ledger, 0), -9, 0))
        assert not reported(supervisor)
        server.start()
        wait_for(lambda: reported(supervisor), "the report")
        assert [item.uid for item in queue.items()] == [uid]
    finally:
        server.close()


def test_a_child_that_dies_while_it_waits_is_replaced(project, told):
    queue = told()
    process = project.start("srq_consume")
    (first,) = wait_for(lambda: queue.snapshot().consumers and children(process), "a child")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: children(process) not in ([], [first]), "another child")
    queue.put({"do": "nothing", "name": "it"})
    assert int(began(project, "it")[2]) in children(process)


def stopped_with_a_claim(project, queue, client, name) -> tuple[int, int]:
    """Stop a supervisor and its idle only child; the child has not read the reply to its claim. Returns both ids."""
    process = project.start("srq_consume")
    wait_for(lambda: parked(client, name), "an idle child")
    (child,) = children(process)
    for pid in (process.pid, child):
        os.kill(pid, signal.SIGSTOP)
    queue.put({"do": "nothing", "name": "it"})
    wait_for(lambda: queue.counts()["in_flight"] == 1, "the claim")
    return process.pid, child


def test_an_item_claimed_behind_a_wait_for_a_dead_child_comes_back(project, told, client, prefix):
    """The child dies after the server carried out the claim and before it reads the reply: the item gets no blame."""
    queue = told(OPTIONS={"client_name": prefix})
    supervisor, child = stopped_with_a_claim(project, queue, client, prefix)
    os.kill(child, signal.SIGKILL)
    os.kill(supervisor, signal.SIGCONT)
    delivery, pid = began(project, "it").groups()
    assert (delivery, int(pid) != child) == ("1", True)
    wait_for(lambda: empty(queue), "the ack")
    assert queue.snapshot().stats.get("crashed", 0) == 0
    assert queue.audit() == []


def test_a_child_that_was_suspended_does_not_handle_an_item_it_has_lost(project, told, client, prefix):
    queue = told(LEASE=1, OPTIONS={"client_name": prefix})
    pids = stopped_with_a_claim(project, queue, client, prefix)
    item = queue.get(30)  # after the child's lease ended
    assert (item.payload["name"], item.deliveries) == ("it", 2)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    queue.put({"do": "nothing", "name": "next"})
    began(project, "next")
    assert len(project.lines()) == 1
    assert queue.ack(item)


@pytest.mark.parametrize("noticed", [True, False])
def test_an_item_put_for_a_consumer_that_was_killed_while_idle_goes_to_another(
    project, told, server_url, client, prefix, noticed
):
    """The waiting claim is dropped with its connection. Without that, it takes the item, until the lease ends.

    A lost host closes no connections: here the proxy keeps them open.
    """
    with closing(Proxy(server_url)) as proxy:
        if not noticed:
            proxy.arm("hold reply", b".1.w\r\n")
        told(URL=proxy.url, LEASE=1, OPTIONS={"client_name": prefix})
        project.add_to_settings(PATIENT_WAITS)
        process = project.start("srq_consume")
        wait_for(lambda: parked(client, prefix), "an idle child")
        project.kill(process)
        if noticed:
            wait_for(lambda: not parked(client, prefix), "the end of its connection")
        queue = told(LEASE=1)
        queue.put({"do": "nothing", "name": "it"})
        if not noticed:
            wait_for(lambda: queue.snapshot().stats.get("delivered"), "the claim for whoever is dead")
        project.start("srq_consume")
        assert began(project, "it")[1] == ("1" if noticed else "2")
        wait_for(lambda: empty(queue), "the ack")
    assert len(project.lines()) == 1
    stats = queue.snapshot().stats
    assert (stats["delivered"], stats["acked"]) == (1 if noticed else 2, 1)
    assert queue.audit() == []


def test_a_child_that_cannot_be_started_is_started_later(project, told, monkeypatch):
    queue = told()
    project.add_to_settings(
        "import os\nfork, left = os.fork, [3]\n"
        "def failing():\n    left[0] -= 1\n    if left[0] < 0:\n        return fork()\n    raise BlockingIOError\n"
        "os.fork = failing"
    )
    queue.put({"do": "nothing", "name": "it"})
    code, _, err = project.run("srq_consume", "--burst", "--processes", "2")
    assert (code, err.count("cannot start")) == (0, 3)  # one of them is the keeper
    assert empty(queue)


def test_a_child_is_started_when_file_descriptors_are_free_again(project, told):
    queue = told()
    project.add_to_settings(
        "import os, sys\npipe, left = os.pipe, {'start_child': 4, 'open': 1, '_fork': 1}\n"
        "def failing():\n    name = sys._getframe(1).f_code.co_name\n    left[name] = left.get(name, 0) - 1\n"
        "    if left[name] < 0:\n        return pipe()\n    raise OSError(24, 'Too many open files')\n"
        "os.pipe = failing"
    )
    queue.put({"do": "nothing", "name": "it"})
    code, _, err = project.run("srq_consume", "--burst")
    assert (code, err.count("cannot start a child process")) == (0, 4)
    assert "cannot start the process that renews the leases" in err
    assert empty(queue)


def test_a_queue_that_refuses_its_report_delays_no_other_queue(make_queue, client):
    broken, other = make_queue("1"), make_queue("2")
    uid = other.put("a")
    (item,) = taken(other, "c1.1", 1)
    client.hset(broken.keys["meta"], "layout", "99")
    ledger, supervisor = (
        Ledger(1),
        Supervisor([Subscription(broken, print), Subscription(other, print)], ConsumerOptions()),
    )
    ledger.hold(1, DeliveryRef(item.uid, item.token), until=lease_time() + LONG)
    ledger.start(0)
    account_for(supervisor, ChildHandle("c1.1", 0, ledger, 0))
    assert [item.uid for item in other.items()] == [uid]


@pytest.mark.parametrize(
    ("handled", "code", "waits"),
    [(0, -signal.SIGSEGV, True), (1, -signal.SIGSEGV, False), (0, -signal.SIGKILL, False)],
)
def test_only_a_child_that_died_before_its_first_item_is_restarted_later(monkeypatch, handled, code, waits):
    monkeypatch.setattr("django_srq.consumer.processes.seats.time", SimpleNamespace(monotonic=lambda: 100.0))
    seats = Seats(ConsumerOptions())
    (seat,) = seats
    for _ in range(5):
        child = seat.child = ChildHandle("c1.1", 0, Ledger(1), 0, born=99.0)
        child.ledger.beat()
        child.ledger.count_handled(handled)
        assert seats.vacate(ChildExit(child, code, 0)) is seat
    assert (seat.due > 100.0) is waits


def test_a_consumer_whose_children_all_die_at_their_start_says_so_and_ends(project, told):
    told()
    project.add_to_settings(
        "import os\nfrom django_srq.signals import consumer_started\n"
        "consumer_started.connect(lambda **kwargs: os._exit(9), weak=False)"
    )
    code, _, err = project.run("srq_consume")
    assert code == 1
    assert "No child process comes up: 5 in a row ended at once, the last ended with exit code 9." in err
    assert "Traceback" not in err


def test_an_error_that_a_restart_does_not_cure_ends_the_consumer_with_one_line(project, told, client):
    queue = told()
    client.hset(queue.keys["meta"], "layout", "99")
    code, _, err = project.run("srq_consume", "--processes", "2")
    assert code == 1
    assert err.splitlines()[-1].endswith("its layout has version 99, this package knows 1: upgrade django-srq here")
    assert "Traceback" not in err


# -- leases


def test_a_handler_that_holds_the_interpreters_lock_keeps_its_lease(project, told, client):
    queue = told(LEASE=3)
    fifo = project.folder / "fifo"
    os.mkfifo(fifo)
    uid = queue.put({"do": "hold the GIL", "until": str(fifo), "name": "it"})
    project.start("srq_consume")
    began(project, "it")
    first = client.zscore(queue.keys["leases"], uid)
    wait_for(lambda: client.zscore(queue.keys["leases"], uid) > first + 3000, "renewals beyond the lease")
    assert not queue.get(-1)
    fifo.write_text("go on")
    wait_for(lambda: "released lost=False" in project.lines(), "the end of it")
    wait_for(lambda: empty(queue), "the ack")
    assert queue.snapshot().stats["delivered"] == 1


def test_a_child_whose_supervisor_died_finishes_its_item_and_ends(project, told, client):
    queue = told(LEASE=3)
    uid = queue.put({"do": "wait", "name": "it"})
    queue.put({"do": "nothing", "name": "next"})
    process = project.start("srq_consume")
    child = int(began(project, "it")[2])
    process.kill()
    process.wait()
    first = client.zscore(queue.keys["leases"], uid)
    wait_for(lambda: client.zscore(queue.keys["leases"], uid) > first + 2000, "renewals by the child")
    project.say("on")
    wait_for(lambda: "it went on lost=False" in project.lines(), "the end of it")
    wait_for(lambda: not Path(f"/proc/{child}").exists(), "the end of the child")
    assert [item.payload["name"] for item in queue.items()] == ["next"]
    assert queue.counts()["in_flight"] == 0


def test_an_orphan_that_finishes_while_the_server_is_away_reports_afterwards(project, told):
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    try:
        queue = told(URL=server.url, TIMEOUT=0.3)
        queue.put({"do": "wait", "name": "it"})
        process = project.start("srq_consume")
        child = int(began(project, "it")[2])
        server.kill()
        process.kill()
        process.wait()
        project.say("on")
        project.said("it went on lost=False")
        over = time.monotonic() + 2  # seconds; the child gives up a call several times meanwhile
        wait_for(lambda: time.monotonic() > over, "an outage longer than a call")
        server.start()
        wait_for(lambda: not Path(f"/proc/{child}").exists(), "the end of the child")
        assert empty(queue)
        assert queue.snapshot().stats["acked"] == 1
    finally:
        server.close()


def test_an_orphan_does_not_wait_for_another_orphan(project, told):
    queue = told()
    process = project.start("srq_consume", "--processes", "2")
    for name in ("one", "two"):
        queue.put({"do": "wait", "name": name, "word": name})
    names = {int(began(project, name)[2]): name for name in ("one", "two")}
    elder, younger = children(process)  # the younger might have inherited the pipe of the elder
    process.kill()
    process.wait()
    project.say(names[elder])
    wait_for(lambda: not Path(f"/proc/{elder}").exists(), "the end of the elder")
    assert Path(f"/proc/{younger}").exists()
    project.say(names[younger])
    wait_for(lambda: not Path(f"/proc/{younger}").exists(), "the end of the younger")
    assert empty(queue)


def test_an_idle_orphan_ends(project, told):
    queue = told()
    process = project.start("srq_consume", "--processes", "2", "--threads", "2")
    wait_for(lambda: queue.snapshot().consumers and len(children(process)) == 2, "two children")
    orphans = children(process)
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in orphans), "the end of the children")


def test_an_item_knows_that_its_lease_was_lost(project, told, client):
    queue = told(LEASE=0.6)
    uid = queue.put({"do": "wait", "name": "it"})
    process = project.start("srq_consume")
    began(project, "it")
    # Another consumer gets the item, although its lease has not ended.
    client.hset(queue.keys["holders"], uid, "g1/99")
    line = wait_for(lambda: "lease lost" in (text := process.stderr.readline()) and text, "a word about it")
    assert uid in line
    project.say("on")
    wait_for(lambda: "it went on lost=True" in project.lines(), "the end of it")


def test_without_an_interval_nothing_is_recovered_automatically(project, told):
    queue = told(AUTOCLEAN_INTERVAL=None)
    uid = queue.put({"do": "SIGKILL", "name": "it"})
    process = project.start("srq_consume")
    began(project, "it")
    wait_for(lambda: queue.snapshot().ended == 1, "the end of its lease")
    queue.put({"do": "nothing", "name": "next"})
    began(project, "next")
    wait_for(lambda: queue.counts()["in_flight"] == 1, "the ack of the other")
    assert "killed by SIGKILL" in next(queue.items("in_flight")).delivery.error["message"]
    assert queue.recover() == 1
    wait_for(lambda: any(line.startswith("it 2 ") for line in project.lines()), "a second delivery")
    process.terminate()
    assert process.wait(60) == 0
    assert uid not in {item.uid for item in queue.items()}


# -- stopping


@pytest.mark.parametrize("threads", [1, 3])
def test_items_that_are_not_finished_within_the_grace_are_interrupted(project, told, threads):
    queue = told()
    for number in range(threads):
        queue.put({"do": "wait", "name": f"it{number}", "once": False})
    process = project.start("srq_consume", "--grace", "0.2", "--threads", str(threads))
    for number in range(threads):
        began(project, f"it{number}")
    process.terminate()
    assert process.wait(60) == 75
    assert [(item.deliveries, item.delivery.crashes) for item in queue.items()] == [(1, 0)] * threads
    assert queue.snapshot().consumers == {}


def test_sighup_replaces_the_children_one_by_one(project, told):
    queue = told()
    process = project.start("srq_consume", "--processes", "2")
    before = wait_for(lambda: len(children(process)) == 2 and set(children(process)), "two children")
    queue.put({"do": "wait", "name": "it"})
    began(project, "it")
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(set(children(process)) - before) >= 1, "a new child")
    queue.put({"do": "nothing", "name": "next"})
    began(project, "next")
    project.say("on")
    wait_for(lambda: len(children(process)) == 2 and not set(children(process)) & before, "only new children")
    wait_for(lambda: empty(queue), "the end of the items")
    # A child that ended had given back its items that were not begun; each was begun once.
    assert [line.split()[:2] for line in project.lines() if " went on" not in line] == [["it", "1"], ["next", "1"]]
    process.terminate()
    assert process.wait(60) == 0


def test_the_successor_of_a_child_knows_how_many_items_are_left(project, told):
    """The child gives back the items that it claimed and did not begin."""
    queue = told()
    queue.put({"do": "wait", "name": "first"})
    queue.put_many([{"do": "nothing"}] * 9)
    process = project.start("srq_consume", "--max-items", "8", "--prefetch", "6")
    began(project, "first")
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: queue.counts()["in_flight"] == 1, "what was not begun, given back")
    project.say("on")
    assert process.wait(60) == 0
    assert (len(queue), queue.counts()["in_flight"]) == (2, 0)


def test_a_second_signal_is_obeyed_while_a_server_is_away(project, told):
    """This holds also when only the supervisor is left, which still has to report the items."""
    server = Server()
    try:
        queue = told(URL=server.url, TIMEOUT=1)
        project.add_to_settings("from django_srq.consumer.processes import supervisor")
        project.add_to_settings("from django_srq.consumer.worker import retries")
        project.add_to_settings(f"retries.LAST_WORDS, supervisor.LAST_WORDS = 0.1, {LONG}")
        queue.put({"do": "wait", "name": "it"})
        process = project.start("srq_consume")
        began(project, "it")
        server.kill()
        project.say("on")
        process.terminate()
        wait_for(lambda: not children(process), "the end of the child")
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        server.close()


def test_a_child_that_gets_sigterm_finishes_its_item(project, told):
    queue = told()
    queue.put({"do": "wait", "name": "it"})
    process = project.start("srq_consume")
    child = int(began(project, "it")[2])
    os.kill(child, signal.SIGTERM)
    project.say("on")
    wait_for(lambda: children(process) not in ([], [child]), "its successor")
    assert queue.snapshot().stats["delivered"] == 1
    wait_for(lambda: empty(queue), "the ack")


def test_a_signal_to_a_child_at_its_birth_does_not_stop_the_consumer(project, told):
    queue = told()
    project.add_to_settings(
        "import os, signal\nfork = os.fork\n"
        "def signalled():\n    pid = fork()\n"
        "    if pid == 0:\n        os.kill(os.getpid(), signal.SIGINT)\n    return pid\n"
        "os.fork = signalled"
    )
    process = project.start("srq_consume")
    queue.put({"do": "nothing", "name": "it"})
    began(project, "it")
    wait_for(lambda: empty(queue), "the ack")
    process.terminate()
    assert process.wait(60) == 0


# -- concurrency within a process, and limits


def test_threads_share_one_blocked_connection(project, told, server_url):
    server = Server()
    try:
        queue = told(URL=server.url)
        process = project.start("srq_consume", "--threads", "4")
        for number in range(4):
            queue.put({"do": "wait", "name": f"it{number}"})
        for number in range(4):
            began(project, f"it{number}")  # all at the same time
        project.say("on")
        wait_for(lambda: empty(queue), "the acks")
        with server.client() as client:
            blocked = wait_for(lambda: [c for c in client.client_list() if "b" in c["flags"]], "a blocked connection")
            assert len(blocked) == 1
        process.terminate()
        assert process.wait(60) == 0
    finally:
        server.close()


def test_an_item_put_while_one_thread_waits_and_another_works_is_taken(project, told):
    queue = told()
    project.start("srq_consume", "--threads", "2")
    queue.put({"do": "wait", "name": "first"})
    began(project, "first")
    for number in range(20):
        queue.put({"do": "nothing", "name": f"it{number}"})
        began(project, f"it{number}")
    project.say("on")
    wait_for(lambda: empty(queue), "the acks")


def test_async_handlers_run_concurrently_on_one_loop(project, server_url, prefix):
    queue = {"HANDLER": "tests.support.handlers.gathering"}
    project.configure({"q": queue}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
    queues["q"].put_many([20] * 20)
    assert project.call("srq_consume", "--concurrency", "20", "--burst", "--processes", "0")[0] == 0
    assert project.lines() == ["gathered srq-loop"] * 20


def test_an_async_handler_that_exits_or_is_cancelled_fails_alone(project, server_url, prefix):
    project.configure(
        {"q": {"HANDLER": "tests.support.handlers.giving_up", "BACKOFF": {"base": 1000}}},
        {"URL": server_url, "PREFIX": prefix + ".{alias}"},
    )
    queue = queues["q"]
    queue.put_many(["exit", "cancelled", "next"])
    code, _, err = project.run("srq_consume", "--concurrency", "2", "--burst")
    assert (code, project.lines()) == (0, ["next went on"]), err
    errors = {item.payload: item.delivery.error["type"] for item in queue.items("delayed")}
    assert errors == {"exit": "SystemExit", "cancelled": "asyncio.exceptions.CancelledError"}


def test_async_handlers_can_use_the_database(project, server_url, prefix):
    project.configure(
        {"q": {"HANDLER": "tests.support.handlers.asking_the_database"}},
        {"URL": server_url, "PREFIX": prefix + ".{alias}"},
    )
    project.add_to_settings("from tests.settings import INSTALLED_APPS, MIDDLEWARE, TEMPLATES")
    assert project.run("migrate", "--verbosity", "0")[0] == 0
    queues["q"].put_many("ab")
    code, _, err = project.run("srq_consume", "--concurrency", "2", "--burst")
    assert (code, project.lines()) == (0, ["users 0", "users 0"]), err


def test_weights_share_out_the_turns(project, server_url, prefix):
    project.configure(
        {alias: {"HANDLER": "tests.support.handlers.note"} for alias in ("high", "low")},
        {"URL": server_url, "PREFIX": prefix + ".{alias}"},
    )
    queues["high"].put_many(["h"] * 6)
    queues["low"].put_many(["l"] * 6)
    assert project.call("srq_consume", "high=2", "low=1", "--burst", "--processes", "0")[0] == 0
    assert "".join(line[0] for line in project.lines()[:9]).count("l") == 3
    assert len(project.lines()) == 12


def test_max_items_holds_over_all_processes(project, told):
    queue = told()
    queue.put_many([{"do": "nothing"}] * 7)
    assert project.run("srq_consume", "--processes", "2", "--threads", "2", "--max-items", "5")[0] == 0
    assert (len(project.lines()), len(queue), queue.counts()["in_flight"]) == (5, 2, 0)


def test_an_item_that_killed_its_process_counts_for_max_items(project, told):
    queue = told()
    for name, deed in (("it", "exit"), ("next", "nothing"), ("last", "nothing")):
        queue.put({"do": deed, "name": name})
    assert project.run("srq_consume", "--max-items", "2")[0] == 0
    assert [line.split()[:2] for line in project.lines()] == [["it", "1"], ["it", "2"]]
    assert queue.counts() == {"ready": 2, "in_flight": 0, "delayed": 0, "dead": 0}


def test_an_item_that_exceeded_the_time_limit_counts_for_max_items(project, told):
    queue = told()
    queue.put({"do": "wait", "once": False})
    assert project.run("srq_consume", "--max-items", "1", "--time-limit", "0.5")[0] == 0
    assert [(item.deliveries, item.delivery.crashes) for item in queue.items()] == [(1, 1)]


def test_a_burst_of_many_processes_ends(project, told):
    queue = told()
    queue.put_many([{"do": "nothing"}] * 50)
    assert project.run("srq_consume", "--processes", "3", "--threads", "2", "--burst")[0] == 0
    assert len(project.lines()) == 50
    assert empty(queue)


def test_a_process_with_too_much_memory_is_replaced(project, told):
    queue = told()
    queue.put({"do": "grow", "bytes": 300 << 20, "name": "big"})
    queue.put({"do": "nothing", "name": "next"})
    code, _, err = project.run("srq_consume", "--burst", "--max-memory", "250M")
    assert code == 0
    assert "memory limit reached" in err
    assert began(project, "big")[2] != began(project, "next")[2]


@pytest.mark.parametrize("reason", ["memory", "a signal"])
def test_threads_that_a_handler_left_do_not_delay_the_successor_of_their_process(project, told, reason):
    """They may go on until the end of the grace."""
    queue = told()
    big = {"bytes": 300 << 20} if reason == "memory" else {}
    queue.put({"do": "leave a thread", "name": "it", **big})
    process = project.start("srq_consume", "--max-memory", "250M", "--grace", str(LONG))
    child = int(began(project, "it")[2])
    if reason == "a signal":
        wait_for(lambda: empty(queue), "the ack")
        os.kill(child, signal.SIGTERM)
    queue.put({"do": "nothing", "name": "next"})
    successor = int(began(project, "next")[2])
    assert set(children(process)) == {child, successor}
    project.say("on")
    wait_for(lambda: children(process) == [successor], "the end of the thread")
    process.terminate()
    assert process.wait(60) == 0


def test_there_are_at_most_two_children_for_each_place(listeners):
    seats = listeners()[0]._seats
    first, second = (seat.child for seat in seats)
    for child in (first, second):
        child.ledger.want_successor()
    seats.make_way()
    assert [seat.child for seat in seats] == [None, None]
    seat = seats.vacant[0]
    seat.child = third = ChildHandle("c1", 0, Ledger(1), first.control_fd)
    third.ledger.want_successor()
    for _ in range(2):
        seats.replace_all()
        seats.make_way()
        assert seats.children == [third, first, second]
    seats.vacate(ChildExit(first, 0, 0))
    seats.make_way()
    assert seats.children == [second, third]


def test_a_handler_that_exceeds_the_time_limit_is_killed(project, told):
    queue = told(MAX_CRASHES=1)
    queue.put({"do": "wait", "name": "endless", "once": False})
    process = project.start("srq_consume", "--time-limit", "0.5")
    wait_for(lambda: queue.counts()["dead"] == 1, "the end of it")
    (dead,) = queue.items("dead")
    assert "killed: an item took longer than the time limit of 0.5 s" in dead.delivery.error["message"]
    queue.put({"do": "nothing", "name": "next"})
    began(project, "next")
    process.terminate()
    assert process.wait(60) == 0


def limited(project, server_url, prefix, **options: object):
    """Two queues: the items of "short" may take half a second, those of "long" as long as the consumer allows."""
    base = {"HANDLER": "tests.support.handlers.told", "LEASE": LONG, "BACKOFF": {"base": 1000}, "MAX_CRASHES": 1}
    queues_ = {"short": {**base, "TIME_LIMIT": "0.5s", **options}, "long": base}
    project.configure(queues_, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
    return project.patient("short"), project.patient("long")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"HANDLER": "tests.support.handlers.together", "HANDLER_BATCH": 5},
        {"HANDLER": "tests.support.handlers.waiting_asynchronously"},
    ],
    ids=["sync", "batch", "async"],
)
def test_the_time_limit_of_a_queue_holds_for_its_items_only(project, server_url, prefix, options):
    """The item of the other queue may run longer. When its process is killed with it, it is not blamed."""
    short, long = limited(project, server_url, prefix, **options)
    long.put({"do": "wait", "name": "patient"})
    process = project.start("srq_consume", "--threads", "2", "--concurrency", "2", "--time-limit", str(LONG))
    began(project, "patient")
    over = time.monotonic() + 1
    wait_for(lambda: time.monotonic() > over, "more than the limit of the other queue")
    assert long.counts()["in_flight"] == 1
    short.put({"do": "wait", "name": "endless", "once": False})
    wait_for(lambda: short.counts()["dead"] == 1, "the end of it")
    (dead,) = short.items("dead")
    assert "killed: an item took longer than the time limit of 0.5 s" in dead.delivery.error["message"]
    wait_for(lambda: empty(long), "the next delivery of the other one")
    assert long.snapshot().stats.get("dead", 0) == 0
    process.terminate()
    assert process.wait(60) == 0


def test_the_time_limit_of_the_consumer_holds_where_it_is_the_smaller_one(project, server_url, prefix):
    short, long = limited(project, server_url, prefix, TIME_LIMIT=LONG)
    for queue in (short, long):
        queue.put({"do": "wait", "once": False})
    process = project.start("srq_consume", "--threads", "2", "--time-limit", "0.5s")
    for queue in (short, long):
        wait_for(lambda queue=queue: queue.counts()["dead"] == 1, "the end of it")
        (dead,) = queue.items("dead")
        assert "longer than the time limit of 0.5 s" in dead.delivery.error["message"]
    process.terminate()
    assert process.wait(60) == 0


def test_the_time_limit_of_a_queue_needs_child_processes(project, server_url, prefix):
    short, _ = limited(project, server_url, prefix)
    short.put({"do": "nothing"})
    code, _, err = project.call("srq_consume", "--processes", "0", "--burst")
    assert code == 0
    assert "short: TIME_LIMIT has no effect with --processes 0.\n" in err
    assert "long: TIME_LIMIT" not in err


def test_an_outage_does_not_count_for_the_time_limit(project, told):
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    try:
        queue = told(URL=server.url, TIMEOUT=0.3)
        uid = queue.put({"do": "raise", "name": "it"})
        process = project.start("srq_consume", "--time-limit", "5")
        began(project, "it")
        server.kill()
        project.say("on")
        over = time.monotonic() + 7
        wait_for(lambda: time.monotonic() > over, "an outage longer than the limit")
        server.start()
        wait_for(lambda: queue.counts()["delayed"] == 1, "the failure")
        (item,) = queue.items("delayed")
        assert (item.uid, item.delivery.crashes, item.delivery.error["type"]) == (uid, 0, "LookupError")
        process.terminate()
        assert process.wait(60) == 0
    finally:
        server.close()


def test_only_the_item_that_exceeded_the_time_limit_is_blamed(queue):
    queue.put_many("ab")
    items = taken(queue, "c1.1", 2)
    ledger, supervisor = Ledger(2), Supervisor([Subscription(queue, print)], ConsumerOptions())
    for index, item in enumerate(items):
        ledger.hold(0, DeliveryRef(item.uid, item.token), until=lease_time() + LONG)
        ledger.start(index)
    account_for(supervisor, ChildHandle("c1.1", 0, ledger, 0, kill_reason="killed: …", over_limit={1}))
    assert [(item.deliveries, item.delivery.crashes) for item in queue.items()] == [(1, 1), (1, 0)]


# -- limits across all consumers


def test_max_in_flight_holds_across_consumers(project, told):
    queue = told(MAX_IN_FLIGHT=2)
    queue.put_many([{"do": "wait", "name": f"it{number}"} for number in range(6)])
    consumers = [project.start("srq_consume", "--threads", "2") for _ in range(2)]
    wait_for(lambda: sum(" wait" in line for line in project.lines()) == 2, "two of them")
    wait_for(lambda: len(queue.snapshot().consumers) == 2, "both consumers")
    assert queue.counts() == {"ready": 4, "in_flight": 2, "delayed": 0, "dead": 0}
    assert not queue.get(-1)
    project.say("on")
    wait_for(lambda: empty(queue), "all of them")
    for process in consumers:
        process.terminate()
        assert process.wait(60) == 0


# -- outcomes that a handler chooses


def test_retry_later(project, told, client):
    queue = told()
    uid = queue.put({"do": "retry", "delay": 3000})
    code, _, err = project.run("srq_consume", "--burst")
    (item,) = queue.items("delayed")
    assert (code, item.uid, item.deliveries) == (0, uid, 1)
    assert 2900 <= item.delivery.when.timestamp() - queue.snapshot().at.timestamp() <= 3000
    assert item.delivery.error["message"] == "not yet"
    assert "INFO postponed by its handler" in err


def test_discard_and_reject(project, told):
    queue = told()
    queue.put_many([{"do": "discard"}, {"do": "reject"}])
    code, _, err = project.run("srq_consume", "--burst")
    assert code == 0
    (item,) = queue.items("dead")
    assert (item.delivery.error["type"], item.delivery.error["message"]) == ("Reject", "nobody can handle it")
    assert queue.drop(item.uid) == 1
    assert empty(queue)
    assert "WARNING discarded" in err
    assert "reason=nobody wants it" in err


# -- each item finds a clean process


def test_the_garbage_collector_ignores_objects_from_before_the_fork(project, told):
    told().put({"do": "frozen"})
    project.add_to_settings("import gc\ngc.unfreeze()  # what the settings of the tests' commands have frozen")
    assert project.run("srq_consume", "--burst")[0] == 0
    assert "frozen True True" in project.lines()


def test_unused_database_connections_are_not_looked_for_after_each_item(project, told):
    told()
    code = """
from django.db import connections
from django_srq.consumer import handler
assert connections.all(initialized_only=True)  # Django prepares one
handler.with_fresh_connections(print)
before = handler._opened
connections["default"].cursor()
print(before, handler._opened)
"""
    assert project.run("shell", "--command", code)[1].split()[-2:] == ["False", "True"]


def test_a_database_connection_that_is_too_old_is_closed_before_the_next_item(project, told):
    told().put_many([{"do": "age"}] * 3)  # they follow each other at once, so the thread does not rest between
    project.add_to_settings("DATABASES['default']['CONN_MAX_AGE'] = None")
    assert project.run("srq_consume", "--burst")[0] == 0
    assert [line for line in project.lines() if line.startswith("open")] == ["open False"] * 3


def test_each_item_finds_a_clean_thread(project, told):
    queue = told()
    queue.put_many([{"do": "dirty"}] * 3)
    project.add_to_settings("DEBUG = True")  # otherwise Django keeps no queries
    assert project.run("srq_consume", "--burst")[0] == 0
    found = [line for line in project.lines() if line.startswith("found")]
    assert found == ["found ('en-us', 'America/Chicago', 'clean', 0)"] * 3


# -- signs of life


def test_the_heartbeat_file(project, told):
    told()
    beat = project.folder / "beat"
    process = project.start("srq_consume", "--heartbeat-file", str(beat))
    first = wait_for(lambda: beat.exists() and beat.stat().st_mtime, "a heartbeat")
    wait_for(lambda: beat.stat().st_mtime > first, "another one")
    process.terminate()
    assert process.wait(60) == 0
    assert not beat.exists()


@pytest.mark.parametrize("deed", ["wait", "leave a thread"])
def test_a_consumer_has_a_heartbeat_while_it_waits_within_a_long_grace(project, told, deed):
    """It waits for its items, or for threads that handlers left."""
    queue = told()
    beat = project.folder / "beat"
    project.add_to_settings("from django_srq.consumer import probes; from django_srq.consumer.processes import health")
    project.add_to_settings("probes.HEARTBEAT, health.STUCK = 0.1, 0.5")
    queue.put({"do": deed, "name": "it"})
    process = project.start("srq_consume", "--grace", str(LONG), "--heartbeat-file", str(beat))
    began(project, "it")
    wait_for(lambda: beat.exists() and (deed == "wait" or empty(queue)), "the ack")
    process.terminate()
    stopped = time.time()
    wait_for(lambda: beat.stat().st_mtime > stopped + 2, "heartbeats for longer than a stuck one has")
    project.say("on")
    assert process.wait(60) == 0


def test_a_heartbeat_file_that_cannot_be_written(project, told):
    queue = told()
    code, _, err = project.run("srq_consume", "--heartbeat-file", str(project.folder / "none" / "beat"))
    assert (code, "none/beat" in err, len(err.splitlines())) == (1, True, 1)
    folder = project.folder / "some"
    folder.mkdir()
    process = project.start("srq_consume", "--heartbeat-file", str(folder / "beat"))
    wait_for(lambda: (folder / "beat").exists() and queue.snapshot().consumers, "a consumer")
    shutil.rmtree(folder)
    wait_for(lambda: "no heartbeat" in process.stderr.readline(), "a word about it")
    queue.put({"do": "nothing", "name": "it"})
    began(project, "it")
    process.terminate()
    assert process.wait(60) == 0


def test_systemd_is_notified(project, told, monkeypatch, tmp_path):
    told()
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        process = project.start("srq_consume")
        for word in (b"READY=1", b"WATCHDOG=1", b"STOPPING=1"):
            if word == b"STOPPING=1":
                process.terminate()
            while systemd.recv(100) != word:
                pass
        assert process.wait(60) == 0


@pytest.mark.parametrize(("watchdog", "seconds"), [(None, 5), ("", 5), ("0", 5), ("3000000", 1.5), ("60000000", 5)])
def test_systemd_is_notified_twice_within_its_watchdog_time(monkeypatch, watchdog, seconds):
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if watchdog is not None:
        monkeypatch.setenv("WATCHDOG_USEC", watchdog)
    assert interval() == seconds


def test_the_entry_of_a_consumer_lists_its_items_in_hand(project, told):
    queue = told(LEASE=0.6)
    uid = queue.put({"do": "wait", "name": "it"})
    process = project.start("srq_consume", "--processes", "2", "--threads", "3")
    began(project, "it")

    def entry():
        return next((about for about in queue.snapshot().consumers.values() if about["state"] == "busy"), None)

    about = wait_for(entry, "its entry")
    assert (about["pid"], about["processes"], about["threads"]) == (process.pid, 2, 3)
    assert [entry["uid"] for entry in about["in_hand"]] == [uid]
    at = queue.snapshot().at.timestamp() * 1000
    assert at - 120_000 < about["since"] <= at
    assert at - 120_000 < about["in_hand"][0]["since"] <= at


# -- outages


def test_an_outage_is_one_log_line_and_its_end_another(project, told):
    server = Server()
    try:
        queue = told(URL=server.url, TIMEOUT=2)
        err = project.folder / "err"
        with err.open("w") as stderr:
            process = project.start("srq_consume", "--processes", "2", stderr=stderr)
        queue.put({"do": "nothing", "name": "before"})
        began(project, "before")
        outages = 0
        for trouble, (begin, end, says) in TROUBLES.items():
            with server.client() as client:
                begin(client)
                client.client_kill_filter(_type="normal", skipme=True)
                if says:
                    outages += 1
                    wait_for(lambda: err.read_text().count("server unavailable") == outages, f"a word about {trouble}")  # noqa: B023
                end(client)
                if says:
                    wait_for(lambda: err.read_text().count("available again") == outages, f"the end of {trouble}")  # noqa: B023
            queue.put({"do": "nothing", "name": trouble})
            began(project, trouble)
            assert err.read_text().count("server unavailable") == outages
            assert says in err.read_text()
        process.terminate()
        assert process.wait(60) == 0
        assert err.read_text().count("server unavailable") == outages == 2
    finally:
        server.close()


def _demote(client) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")  # nobody listens there


TROUBLES = {
    "password": (
        lambda client: client.config_set("requirepass", "secret"),
        lambda client: client.config_set("requirepass", ""),
        "refuses the user or password",
    ),
    "read-only": (_demote, lambda client: client.execute_command("REPLICAOF", "NO", "ONE"), "read-only replica"),
    # A full server still hands out items.
    "full": (
        lambda client: client.config_set("maxmemory", "1mb"),
        lambda client: client.config_set("maxmemory", "0"),
        "",
    ),
}


def test_nothing_is_delivered_twice_after_an_outage_longer_than_a_lease(project, told):
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    try:
        queue = told(URL=server.url, LEASE=4, TIMEOUT=1)
        queue.put({"do": "wait", "name": "it", "once": False})
        err = project.folder / "err"
        with err.open("w") as stderr:
            process = project.start("srq_consume", "--processes", "2", stderr=stderr)
        began(project, "it")
        server.kill()
        over = time.monotonic() + 6
        wait_for(lambda: time.monotonic() > over, "an outage longer than the lease")
        server.start()
        wait_for(lambda: "available again" in err.read_text(), "a word about its return")
        project.say("on")
        wait_for(lambda: empty(queue), "the ack")
        process.terminate()
        assert process.wait(60) == 0
        assert [line.split()[:2] for line in project.lines()] == [["it", "1"], ["it", "went"]]
        assert queue.snapshot().stats["delivered"] == 1
        assert err.read_text().count("server unavailable") == 1
    finally:
        server.close()


def test_a_stop_while_the_server_is_away(project, told, dead_port):
    queue = told(URL=f"redis://127.0.0.1:{dead_port}", TIMEOUT=0.3)
    process = project.start("srq_consume", "--processes", "2")
    wait_for(lambda: "server unavailable" in process.stderr.readline(), "a word about it")
    process.terminate()
    assert process.wait(60) == 0
    assert queue.alias == "told"


# -- signals


LISTENING = """
import json, pathlib
from django_srq import signals

def tell(name):
    def receive(sender, **about):
        with pathlib.Path(TOLD_OF).open("a") as file:
            about = {key: str(getattr(value, "uid", value)) for key, value in about.items() if key != "signal"}
            file.write(json.dumps({"name": name, **about}) + "\\n")
    return receive

for name in (
    "item_started", "item_acked", "item_failed", "item_recovered", "item_dead", "consumer_started", "consumer_stopped"
):
    getattr(signals, name).connect(tell(name), weak=False)
"""


def test_signals_report_the_life_of_items(project, told):
    queue = told(MAX_CRASHES=2)
    told_of = project.folder / "signals"
    project.add_to_settings(f"TOLD_OF = {str(told_of)!r}\n{LISTENING}")
    uids = queue.put_many(
        [{"do": "nothing"}, {"do": "discard"}, {"do": "retry", "delay": 60}, {"do": "wait", "once": False}]
    )
    process = project.start("srq_consume")

    def heard() -> list[dict[str, str]]:
        return [json.loads(line) for line in told_of.read_text().splitlines()] if told_of.exists() else []

    # The signals are sent by a child: one that dies soon would lose them.
    for delivery, told_then in (("1", "item_recovered"), ("2", "item_dead")):
        wait_for(lambda delivery=delivery: began(project, "wait")[1] == delivery, "the last one in hand")
        os.kill(int(began(project, "wait")[2]), signal.SIGKILL)
        wait_for(lambda name=told_then: any(event["name"] == name for event in heard()), told_then)
    process.terminate()
    assert process.wait(60) == 0
    names = [(event["name"], event.get("uid") or event.get("item")) for event in heard()]
    assert names[:2] == [("consumer_started", None), ("item_started", uids[0])]
    told_once = [("item_acked", uids[0]), ("item_acked", uids[1]), ("item_failed", uids[2])]
    assert [names.count(event) for event in (*told_once, ("item_recovered", uids[3]), ("item_dead", uids[3]))] == [
        1
    ] * 5
    assert names[-1] == ("consumer_stopped", None)


def test_a_slow_receiver_does_not_delay_a_stop(project, told):
    queue = told(MAX_CRASHES=1)
    project.add_to_settings(
        "import threading\nfrom django_srq import signals\n"
        "def receive(sender, **about):\n"
        "    from tests.support.handlers import _say\n    _say('receives')\n    threading.Event().wait()\n"
        "signals.item_dead.connect(receive, weak=False)"
    )
    queue.put({"do": "exit"})
    process = project.start("srq_consume", "--grace", "600")
    project.said("receives")
    process.terminate()
    assert process.wait(60) == 0


@pytest.fixture
def line():
    """Makes the pipe to a child: (reading end, writing end)."""
    ends: list[int] = []

    def make() -> tuple[int, int]:
        reading, writing = os.pipe()
        ends.extend((reading, writing))
        for end in (reading, writing):
            os.set_blocking(end, False)
        return reading, writing

    yield make
    for end in ends:
        os.close(end)


@pytest.fixture
def listeners(queue, line):
    """Makes a supervisor with two ready children, and a function for each that reads its pipe."""

    def make():
        supervisor = Supervisor([Subscription(queue, print)], ConsumerOptions(processes=2))
        ends = [line() for _ in range(2)]
        for seat, (_, writing) in zip(supervisor._seats, ends, strict=True):
            seat.child = ChildHandle("c1", 0, Ledger(1), writing)
            seat.child.ledger.beat()
        return supervisor, [lambda reading=reading: heard(reading) for reading, _ in ends]

    return make


def heard(reading: int) -> bytes:
    """All that can be read now."""
    words = []
    with suppress(BlockingIOError):
        while word := os.read(reading, 65536):
            words.append(word)
    return b"".join(words)


def pass_on_events(supervisor: Supervisor) -> None:
    for child in supervisor._seats.children:
        child.flush()
    supervisor._events.pass_on(supervisor._seats.children)


@pytest.mark.parametrize("reason", ["stopping", "kill_reason"])
def test_signals_go_to_a_child_that_stays(listeners, reason):
    supervisor, (first, second) = listeners()
    setattr(next(iter(supervisor._seats)).child, reason, "it")
    supervisor._events.waiting.append({"signal": "item_dead"})
    pass_on_events(supervisor)
    assert [first(), second()] == [b"", b'{"signal": "item_dead"}\n']


def test_signals_that_fit_into_no_pipe_are_passed_on_later(listeners):
    """No message is lost or torn, and none waits for a child that does not read while another one does."""
    supervisor, listening = listeners()
    events = [{"signal": "item_dead", "number": number, "evidence": "x" * 5000} for number in range(100)]
    supervisor._events.waiting.extend(events)
    told = [b"", b""]
    while supervisor._events.waiting or any(child.unsent for child in supervisor._seats.children):
        pass_on_events(supervisor)
        left = list(supervisor._events.waiting)
        assert left == events[len(events) - len(left) :]
        pass_on_events(supervisor)
        assert list(supervisor._events.waiting) == left  # nothing was read since
        read = [listen() for listen in listening]
        assert any(read)
        told = [before + now for before, now in zip(told, read, strict=True)]
    numbers = [[json.loads(line)["number"] for line in words.splitlines()] for words in told]
    assert all(numbers)
    assert all(series == sorted(series) for series in numbers)
    assert sorted(numbers[0] + numbers[1]) == list(range(100))


def test_a_message_longer_than_the_pipe_is_not_torn_by_the_next_one(line):
    reading, writing = line()
    child = ChildHandle("c1", 0, Ledger(1), writing)
    long = b"x" * 200_000 + b"\n"
    assert child.send(long)
    words = heard(reading)  # now there is room for a further part
    assert not child.send(b"next\n")
    words += heard(reading)
    child.stop()
    child.stop()
    while not child.flush():
        words += heard(reading)
    words += heard(reading)
    assert words == long + STOP
    assert child.send(b"next\n")
    assert heard(reading) == b"next\n"


TOLD_ONLY = f"""
from django_srq.consumer.processes.supervisor import Supervisor
until = Supervisor._until_next
# It does nothing that it is not told to do, but for calls that a busy machine makes it repeat.
Supervisor._until_next = lambda self: until(self) if self._reports or self._vacant() else {LONG}
"""
# A write of more than PIPE_BUF (4096 bytes on Linux) may be cut off when the pipe is full.
LONG_EVIDENCE = """
from django_srq.queue import failure
of_death = failure.of_death
failure.of_death = lambda *args, **about: json.dumps(
    {**json.loads(of_death(*args, **about)), "more": "x" * 5000}
).encode()
"""


def recoveries(told_of: Path) -> list[str]:
    """The uids of the item_recovered signals in the file."""
    *lines, _ = told_of.read_text().split("\n") if told_of.exists() else [""]  # the last line may be incomplete
    told = [json.loads(line) for line in lines]
    return [about["uid"] for about in told if about["name"] == "item_recovered"]


def test_all_signals_of_a_large_batch_are_sent_at_once(project, told):
    """They do not fit into one pipe; and when they arise, no child is there to send them."""
    queue = told(HANDLER="tests.support.handlers.together", HANDLER_BATCH=1000)
    told_of = project.folder / "signals"
    project.add_to_settings(f"TOLD_OF = {str(told_of)!r}\n{LISTENING}{TOLD_ONLY}")
    uids = queue.put_many([{"do": "exit"}] * 1000)
    project.start("srq_consume", stderr=subprocess.DEVNULL)
    many = lambda: told_of.exists() and told_of.read_text().count('"item_recovered"') >= 1000  # noqa: E731
    wait_for(many, "the signals", seconds=PATIENT)
    wait_for(lambda: len(recoveries(told_of)) >= 1000, "the last one")
    assert recoveries(told_of) == uids


def test_a_child_whose_pipe_is_full_gets_the_order_to_stop_when_it_reads(project, told):
    """It holds the interpreter's lock while signals about items of another child fill its pipe, to the last byte."""
    queue = told(HANDLER="tests.support.handlers.together", HANDLER_BATCH=1000)
    told_of, fifo = project.folder / "signals", project.folder / "fifo"
    os.mkfifo(fifo)
    project.add_to_settings(f"TOLD_OF = {str(told_of)!r}\n{LISTENING}{TOLD_ONLY}{LONG_EVIDENCE}")
    queue.put({"do": "hold the GIL", "until": str(fifo), "name": "it"})
    process = project.start("srq_consume", "--processes", "2", "--grace", str(LONG), stderr=subprocess.DEVNULL)
    holding = int(began(project, "it")[2])
    queue.put_many([{"do": "exit"}] * 100)
    wait_for(lambda: recoveries(told_of), "the signals for which its line had no room", seconds=PATIENT)
    process.terminate()
    wait_for(lambda: children(process) == [holding], "the end of the other", seconds=PATIENT)
    fifo.write_text("go on")
    assert process.wait(60) == 0


# -- new code


def test_autoreload_restarts_when_the_code_changes(project, server_url, prefix):
    module = project.folder / "changing.py"

    def write(word: str) -> None:
        module.write_text(
            f"from tests.support.handlers import _say\n\ndef handle(payload):\n    _say('{word} ' + payload)\n"
        )

    write("first")
    project.configure(
        {"q": {"HANDLER": "changing.handle"}}, {"URL": server_url, "PREFIX": prefix + ".{alias}", "LEASE": LONG}
    )
    queue = queues["q"]
    watched = project.folder / "watched"
    project.add_to_settings(
        "import pathlib\nfrom django.utils.autoreload import StatReloader\nfiles = StatReloader.snapshot_files\n"
        f"def snapshot_files(self):\n    yield from files(self)\n    pathlib.Path({str(watched)!r}).touch()\n"
        "StatReloader.snapshot_files = snapshot_files"
    )
    process = project.start("srq_consume", "--autoreload", environment={"PYTHONDONTWRITEBYTECODE": "1"})
    queue.put("a")
    project.said("first a")
    (before,) = wait_for(lambda: queue.snapshot().consumers, "its entry")  # the entry may come after its first item
    wait_for(watched.exists, "the reloader to know the code as it was")
    write("second")
    wait_for(lambda: set(queue.snapshot().consumers) - {before}, "another consumer")
    queue.put("b")
    project.said("second b")
    assert list(queue.snapshot().consumers) != [before]
    os.killpg(process.pid, signal.SIGINT)  # like Ctrl-C
    assert process.wait(60) == 0
    wait_for(lambda: queue.snapshot().consumers == {}, "the end of the consumer")


def test_autoreload_waits_for_the_mend_of_code_that_cannot_be_loaded(project, server_url, prefix):
    """Of a handler at the start, and of a module that Django itself imports after a change."""
    (project.folder / "shop").mkdir()
    handlers, models = project.folder / "shop" / "handlers.py", project.folder / "shop" / "models.py"
    watched, broken = project.folder / "watched", "def handle(:\n"

    def write(file: Path, text: str) -> None:
        watched.unlink(missing_ok=True)
        file.write_text(text)

    def handling(word: str) -> str:
        return f"from tests.support.handlers import _say\n\ndef handle(payload):\n    _say('{word} ' + payload)\n"

    write(models, "")
    write(handlers, broken)
    project.configure(
        {"q": {"HANDLER": "shop.handlers.handle"}}, {"URL": server_url, "PREFIX": prefix + ".{alias}", "LEASE": LONG}
    )
    project.add_to_settings(
        "import pathlib\nfrom django.utils.autoreload import StatReloader\nfiles = StatReloader.snapshot_files\n"
        f"def snapshot_files(self):\n    yield from files(self)\n    pathlib.Path({str(watched)!r}).touch()\n"
        "StatReloader.snapshot_files = snapshot_files\nINSTALLED_APPS = [*INSTALLED_APPS, 'shop']"
    )
    (project.folder / "shop" / "__init__.py").touch()
    queue = queues["q"]
    queue.put("a")
    told = project.folder / "told"
    with told.open("w") as err:
        environment = {"PYTHONDONTWRITEBYTECODE": "1"}
        process = project.start("srq_consume", "--autoreload", environment=environment, stderr=err)

        def says(text: str, times: int = 1) -> None:
            wait_for(lambda: told.read_text().count(text) == times, text, seconds=PATIENT)
            wait_for(watched.exists, "the reloader to know the code as it is", seconds=PATIENT)

        says("the consumer ended with exit code")
        assert "SyntaxError" in told.read_text()
        write(handlers, handling("first"))
        project.said("first a")
        wait_for(watched.exists, "the reloader to know the code as it is", seconds=PATIENT)
        write(models, broken)
        says("The code cannot be loaded. The consumer starts when it is changed.")
        assert 'models.py", line 1' in told.read_text()
        wait_for(lambda: queue.snapshot().consumers == {}, "the end of the consumer")
        queue.put("b")
        write(models, "")
        project.said("first b")
    os.killpg(process.pid, signal.SIGINT)  # like Ctrl-C
    assert process.wait(60) == 0


NOT_READY = """
from django.apps import AppConfig

class Shop(AppConfig):
    name = "shop"

    def ready(self):
        raise RuntimeError("not yet")
"""


@pytest.mark.parametrize(
    ("file", "broken", "error"),
    [
        ("models.py", "def handle(:\n", "SyntaxError"),
        ("apps.py", "import shop.missing\n", "ModuleNotFoundError"),
        ("apps.py", NOT_READY, "RuntimeError: not yet"),
    ],
    ids=["models", "apps", "ready"],
)
def test_autoreload_waits_for_the_mend_of_an_app_that_cannot_be_loaded_at_the_start(
    project, server_url, prefix, file, broken, error
):
    """Django's setup fails in the command itself."""
    (project.folder / "shop").mkdir()
    (project.folder / "shop" / "__init__.py").touch()
    module, told, watched = project.folder / "shop" / file, project.folder / "told", project.folder / "watched"
    module.write_text(broken)
    project.configure(
        {"q": {"HANDLER": "tests.support.handlers.note"}},
        {"URL": server_url, "PREFIX": prefix + ".{alias}", "LEASE": LONG},
    )
    project.add_to_settings(
        "import pathlib\nfrom django.utils.autoreload import StatReloader\nfiles = StatReloader.snapshot_files\n"
        f"def snapshot_files(self):\n    yield from files(self)\n    pathlib.Path({str(watched)!r}).touch()\n"
        "StatReloader.snapshot_files = snapshot_files\nINSTALLED_APPS = [*INSTALLED_APPS, 'shop']"
    )

    def says(times: int) -> None:
        words = "The code cannot be loaded. The consumer starts when it is changed."
        wait_for(lambda: told.read_text().count(words) == times, words, seconds=PATIENT)
        wait_for(watched.exists, "the reloader to know the code as it is", seconds=PATIENT)
        watched.unlink()

    queues["q"].put("a")
    with told.open("w") as err:
        environment = {"PYTHONDONTWRITEBYTECODE": "1"}
        process = project.start("srq_consume", "q", "--autoreload", environment=environment, stderr=err)
        says(1)
        assert error in told.read_text()
        assert told.read_text().count("while Django was set up") == told.read_text().count("Traceback") == 1
        module.write_text(broken + "# still\n")
        says(2)
        assert project.lines() == []
        module.write_text("")
        project.said("a 1")
    os.killpg(process.pid, signal.SIGINT)  # like Ctrl-C
    assert process.wait(60) == 0


@pytest.mark.parametrize("stop", ["Ctrl-C", "SIGTERM"])
def test_autoreload_can_be_stopped_while_it_waits_for_the_mend(project, stop):
    (project.folder / "shop").mkdir()
    (project.folder / "shop" / "__init__.py").touch()
    (project.folder / "shop" / "models.py").write_text("def handle(:\n")
    project.add_to_settings("INSTALLED_APPS = [*INSTALLED_APPS, 'shop']")
    told = project.folder / "told"
    with told.open("w") as err:
        process = project.start("srq_consume", "--autoreload", stderr=err)
        wait_for(lambda: "The code cannot be loaded." in told.read_text(), "its word", seconds=PATIENT)
        if stop == "SIGTERM":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    assert "KeyboardInterrupt" not in told.read_text()


@pytest.mark.parametrize("arguments", [["srq_consume"], ["srq_status", "--autoreload"]])
def test_without_autoreload_an_app_that_cannot_be_loaded_ends_the_command(project, arguments):
    (project.folder / "shop").mkdir()
    (project.folder / "shop" / "__init__.py").touch()
    (project.folder / "shop" / "models.py").write_text("def handle(:\n")
    project.add_to_settings("INSTALLED_APPS = [*INSTALLED_APPS, 'shop']")
    code, _, err = project.run(*arguments)
    assert code == 1
    assert err.count("SyntaxError") == err.count("Traceback") == 1


def test_a_consumer_ends_with_the_reloader(project, told):
    """The reloader cannot stop it properly: at Ctrl-C, Django kills the reloader after a quarter of a second."""
    queue = told()
    process = project.start("srq_consume", "--autoreload")
    wait_for(lambda: queue.snapshot().consumers, "the consumer")
    (watching,) = offspring(process)
    os.kill(watching, signal.SIGKILL)
    wait_for(lambda: queue.snapshot().consumers == {}, "the end of the consumer")
    assert process.wait(60) != 0


def test_options_that_need_child_processes(project, told):
    told()
    code, _, err = project.call("srq_consume", "--processes", "0", "--time-limit", "3", "--burst")
    assert code == 2
    assert "--max-memory, --time-limit and --heartbeat-file need child processes." in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--max-memory", "lots"], "a size such as 200M or 1G"),
        (["--grace", "-1"], "a number of seconds above 0 or a duration such as '90s', '5m', '2h' or '7d', not '-1'"),
        (["--threads", "0"], "a whole number above 0, not '0'"),
        (["--processes", "-1"], "a whole number from 0 on, not '-1'"),
        (["told=0"], "a whole number above 0, not '0'"),
        (["tald=2"], "Did you mean 'told'?"),
    ],
)
def test_wrong_arguments(project, told, arguments, says):
    told()
    code, _, err = project.call("srq_consume", *arguments)
    assert (code, says in err, "Traceback" in err) == (2, True, False)


def test_the_pause_after_early_deaths_has_a_limit_however_many_there_were():
    seat = Seat()
    for _ in range(2000):
        seat.postpone()
    assert 0 < seat.due - time.monotonic() <= LONGEST_PAUSE
