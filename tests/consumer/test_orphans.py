"""Children of a killed supervisor whose handlers hold the interpreter's lock, so that none of their threads runs."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from django_srq.consumer import ConsumerOptions, Subscription
from django_srq.consumer.clock import lease_time
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.log_thread import LogThread, logging
from django_srq.consumer.processes import orphan
from django_srq.consumer.processes.orphan import Orphan
from django_srq.operations import DeliveryRef
from tests.consumer.test_supervisor import LONG, began, empty, keeper, operations_slot, taken, told
from tests.support.waiting import PATIENT, wait_for

__all__ = ["told"]  # a fixture


def deaf(project, queue, *arguments: str, behind: int = 0) -> tuple[int, int, Path]:
    """Let a handler kill the supervisor and hold the lock; returns the ids of child and keeper, and the handler's FIFO.

    behind: items that are claimed together with the one that it handles.
    """
    fifo = project.folder / "fifo"
    os.mkfifo(fifo)
    process = project.start("srq_consume", "--prefetch", str(behind + 1), *arguments)
    kept_by = wait_for(lambda: keeper(process), "the keeper")
    item = {"do": "hold the GIL alone", "until": str(fifo), "name": "it"}
    queue.put_many([item, *[{"do": "nothing", "name": "behind"}] * behind])
    child = int(began(project, "it")[2])
    process.wait()
    return child, kept_by, fifo


def gone(*pids: int) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_the_lease_of_an_orphan_is_renewed_until_it_ends(project, told, client):
    queue = told(LEASE=2)
    child, kept_by, fifo = deaf(project, queue)
    (uid,) = client.hkeys(queue.keys["holders"])
    first = client.zscore(queue.keys["leases"], uid)
    wait_for(lambda: client.zscore(queue.keys["leases"], uid) > first + 2500, "renewals beyond the lease")
    fifo.write_text("go on")
    project.said("released lost=False")
    wait_for(lambda: gone(child, kept_by), "the end of the child and the keeper")
    assert empty(queue)
    assert (queue.snapshot().stats["acked"], queue.snapshot().stats.get("recovered", 0)) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "options", "crashes"),
    [(["--time-limit", "1"], {}, 1), ([], {"TIME_LIMIT": 1}, 1), (["--grace", "0"], {}, 0)],
    ids=["time limit", "time limit of the queue", "grace"],
)
def test_an_orphan_is_killed_at_its_time_limit_or_at_the_end_of_its_grace(project, told, arguments, options, crashes):
    """The items behind the running one are given back, and not even counted as delivered."""
    queue = told(**options)
    child, kept_by, _ = deaf(project, queue, *arguments, behind=2)
    wait_for(lambda: gone(child), "the end of the child")
    wait_for(lambda: gone(kept_by), "the end of the keeper")
    found = [(item.payload["name"], item.deliveries, item.delivery.crashes) for item in queue.items("ready")]
    assert found == [("it", 1, crashes), ("behind", 0, 0), ("behind", 0, 0)]
    assert queue.counts()["in_flight"] == 0


def test_without_a_keeper_the_item_of_an_orphan_comes_back_when_the_lease_ends(project, told):
    queue = told(LEASE=1)
    child, kept_by, fifo = deaf(project, queue)
    os.kill(kept_by, signal.SIGKILL)
    item = wait_for(lambda: queue.get(-1), "the end of its lease")
    assert (item.payload["name"], item.deliveries, item.delivery.crashes) == ("it", 2, 1)
    fifo.write_text("go on")
    project.said("released lost=True")
    wait_for(lambda: gone(child), "the end of the child")


@pytest.fixture
def process():
    process = subprocess.Popen(["sleep", str(LONG)], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(("runs", "crashes"), [(True, 1), (False, 0)])
def test_only_an_item_that_ran_too_long_is_blamed_for_the_kill_of_an_orphan(queue, process, monkeypatch, runs, crashes):
    """An orphan that runs nothing is killed as well in the end: it should have ended by itself."""
    monkeypatch.setattr(orphan, "MARGIN", 0.0)
    uids = queue.put_many("abcd")
    done, held, running = taken(queue, "c1.1", 3)
    slot = operations_slot("c1.1")
    ledger = Ledger(3)
    ledger._head.pid = process.pid
    for index, item in enumerate((done, held, running)):
        ledger.hold(0, DeliveryRef(item.uid, item.token), until=lease_time() + LONG)
        if item is not held:
            ledger.start(index)
    ledger.finish(0)
    if not runs:
        ledger.finish(2)
    queue.link.call(queue.claim("c1.1", lease=LONG), queue="q", slot=slot)  # the orphan has not read this reply
    plan = ConsumerOptions(time_limit=0.5 if runs else LONG, grace=0)
    one = Orphan("c1.1", [Subscription(queue, print)], ledger, plan, LogThread(logging.getLogger("tests.orphans")))
    assert one.look(trouble=True)
    wait_for(lambda: not one.look(trouble=False), "its end", seconds=PATIENT)
    assert process.wait(60) == -9
    found = {item.uid: (item.deliveries, item.delivery.crashes) for item in queue.items("ready")}
    blamed = {uids[2]: (1, crashes)} if runs else {}
    assert found == {uids[1]: (0, 0), uids[3]: (0, 0), **blamed}
    assert queue.counts()["in_flight"] == 0
    assert queue.snapshot().stats["acked"] == 2 - len(blamed)


def test_only_the_item_over_its_own_limit_is_blamed_for_the_kill_of_an_orphan(make_queue, process, monkeypatch):
    """The item of another queue may take longer, and goes back as one that was cut."""
    monkeypatch.setattr(orphan, "MARGIN", 0.0)
    short, long = make_queue("short"), make_queue("long")
    ledger = Ledger(2)
    ledger._head.pid = process.pid
    for index, queue in enumerate((short, long)):
        queue.put("x")
        (item,) = taken(queue, "c1.1", 1)
        ledger.hold(index, DeliveryRef(item.uid, item.token), until=lease_time() + LONG)
        ledger.start(index)
    subscriptions = [Subscription(short, print, time_limit=0.5), Subscription(long, print, time_limit=LONG)]
    log = LogThread(logging.getLogger("tests.orphans"))
    one = Orphan("c1.1", subscriptions, ledger, ConsumerOptions(grace=0), log)
    wait_for(lambda: not one.look(trouble=False), "its end", seconds=PATIENT)
    found = [[(item.deliveries, item.delivery.crashes) for item in queue.items()] for queue in (short, long)]
    assert found == [[(1, 1)], [(1, 0)]]


def test_an_orphan_that_nobody_reaps_is_given_up(queue, process, monkeypatch):
    monkeypatch.setattr(orphan, "MARGIN", 0.0)
    monkeypatch.setattr("django_srq.consumer.processes.groups.lives", lambda pid: True)
    ledger = Ledger(1)
    ledger._head.pid = process.pid
    plan = ConsumerOptions(grace=0)
    one = Orphan("c1.1", [Subscription(queue, print)], ledger, plan, LogThread(logging.getLogger("tests.orphans")))
    wait_for(lambda: not one.look(trouble=False), "that it is given up")
