"""Servers learn what became of the items of dead children: no queue, server or name server delays another."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_srq import operations
from django_srq.consumer.processes.reports import NAME, Report, Reports
from tests.consumer.test_keeper import silent_servers
from tests.consumer.test_supervisor import LONG, began, children, name_of, offspring, told
from tests.support.resolver import Resolver
from tests.support.servers import Server
from tests.support.waiting import wait_for

__all__ = ["told"]
IN_TIME = 10  # seconds; far less than the servers below would take one after the other
SILENT = 20  # servers


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.close()


def configure(project, prefix: str, urls: dict[str, str], **options: object) -> None:
    """Configure queues with these aliases, in that order."""
    handled = {"HANDLER": "tests.support.handlers.told", "LEASE": LONG, **options}
    project.configure(
        {alias: {**handled, "URL": url} for alias, url in urls.items()}, {"PREFIX": prefix + ".{alias}", "TIMEOUT": 1}
    )


def lives(pid: int) -> bool:
    return bool(name_of(pid))


@pytest.mark.parametrize("refusal", ["no rights", "another type"])
def test_a_queue_that_its_server_refuses_delays_no_other_queue_of_that_server(project, prefix, server, refusal):
    def allow(*rules: str) -> None:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "consumer", "on", ">pw", "+@all", "resetkeys", *rules)

    allow("allkeys")
    url = server.url.replace("://", "://consumer:pw@")
    configure(project, prefix, {"refused": url, "other": url})
    refused, other = project.patient("refused"), project.patient("other")
    refused.put({"do": "wait", "name": "it"})
    uid = other.put({"do": "wait", "name": "that"})
    project.start("srq_consume", "--threads", "2")
    began(project, "it")
    child = int(began(project, "that")[2])
    if refusal == "no rights":
        allow(f"~srq:{prefix}.other*")
    else:
        with server.client() as client:
            client.delete(refused.keys["slots"])
            client.set(refused.keys["slots"], "another type")
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: [item.delivery.crashes for item in other.items() if item.uid == uid] == [1], "what it held")
    if refusal == "no rights":
        allow("allkeys")
        wait_for(lambda: refused.snapshot().stats.get("crashed") == 1, "the report of the other queue")


@pytest.mark.parametrize("promise", ["time limit", "withdrawal"])
def test_silent_servers_delay_no_promise_of_the_supervisor(project, server_url, prefix, promise):
    with silent_servers(SILENT) as urls:
        away = {f"away{number}": url for number, url in enumerate(urls)}
        configure(project, prefix, {"here": server_url, **away}, MAX_CRASHES=1)
        queue = project.patient("here")
        process = project.start("srq_consume", "--processes", "2", "--prefetch", "2", "--time-limit", "1")
        dead, other = wait_for(lambda: len(children(process)) == 2 and children(process), "the children")
        queue.put({"do": "nothing", "name": "first"})
        began(project, "first")
        os.kill(dead, signal.SIGKILL)
        wait_for(lambda: not lives(dead), "its burial")
        if promise == "time limit":
            queue.put({"do": "wait", "name": "it", "once": False})
            began(project, "it")
            wait_for(lambda: queue.counts()["dead"] == 1, "the end of it", seconds=IN_TIME)
        else:
            os.kill(other, signal.SIGSTOP)
            queue.put({"do": "nothing", "name": "it"})
            began(project, "it")
            wait_for(lambda: len(children(process)) == 2, "its successor")
        project.kill(process)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_reporter_that_hangs_or_dies_is_replaced(project, told, server, number):
    queue = told(URL=server.url)
    project.add_to_settings("from django_srq.consumer.processes import reports\nreports.HUNG = 1")
    queue.put({"do": "wait", "name": "it"})
    process = project.start("srq_consume")
    child = int(began(project, "it")[2])
    server.process.send_signal(signal.SIGSTOP)
    os.kill(child, signal.SIGKILL)
    reporter = wait_for(lambda: next((pid for pid in offspring(process) if name_of(pid) == NAME), None), "a reporter")
    os.kill(reporter, number)
    wait_for(lambda: not lives(reporter), "its end")
    server.process.send_signal(signal.SIGCONT)
    wait_for(lambda: began(project, "it")[1] == "2", "the next delivery")
    process.terminate()
    assert process.wait(60) == 0


def test_a_reporter_that_cannot_be_started_is_started_later(queue, caplog):
    def fork() -> int:
        raise BlockingIOError("too many processes")

    reports = Reports(fork, wake_supervisor=lambda: None, pipe_ends=list)
    reports.append(Report(queue, operations.release(queue.keys, [])))
    reports.send()
    reports.send()
    assert caplog.messages == ["cannot start a process that tells a server what became of items: too many processes"]
    assert reports
    assert 0 < reports.next_moment < float("inf")


def test_the_supervisor_has_no_thread_of_a_name_lookup_when_it_forks(project, prefix, server, tmp_path):
    """A lock of that thread would stay locked in the child."""
    resolver = Resolver(tmp_path)
    resolver.hosts.write_text("127.0.0.1 queue.example\n")
    configure(project, prefix, {"told": server.url})
    queue = project.patient("told")
    queue.put({"do": "wait", "name": "it", "once": False})
    configure(project, prefix, {"told": server.url.replace("127.0.0.1", "queue.example")}, MAX_CRASHES=None)
    variables = {"PYTHONWARNINGS": "always::DeprecationWarning"}
    process = project.start("srq_consume", environment=variables, under=resolver.under())
    for delivery in ("1", "2", "3"):
        wait_for(lambda number=delivery: began(project, "it")[1] == number, f"delivery {delivery}")
        assert len(list(Path(f"/proc/{process.pid}/task").iterdir())) == 1
        if delivery == "2":  # the address is known by now; from here on, the name server is silent
            resolver.hosts.write_text("")
            with server.client() as client:
                client.client_kill_filter(_type="normal", skipme=True)
        if delivery != "3":
            os.kill(int(began(project, "it")[2]), signal.SIGKILL)
    process.terminate()
    project.say("on")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "multi-threaded" not in err
    resolver.close()


def test_a_successor_begins_after_the_items_of_its_predecessor_are_back(project, told):
    """Otherwise it would take a later item, or find nothing and end the burst."""
    queue = told()
    project.add_to_settings(
        "import time\nfrom django_srq.consumer.processes import reports\nattempts = reports.attempts\n"
        "def late(given):\n    time.sleep(0.4)\n    return attempts(given)\n"
        "reports.attempts = late"
    )
    for name, deed in (("it", "exit"), ("next", "nothing")):
        queue.put({"do": deed, "name": name})
    assert project.run("srq_consume", "--burst")[0] == 0
    assert [line.split()[:2] for line in project.lines()] == [["it", "1"], ["it", "2"], ["next", "1"]]
