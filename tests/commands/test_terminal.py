"""What srq_consume says at its start and its end, about servers that are away, and on a terminal."""

from __future__ import annotations

import logging
import os
import pty
import re
import signal
import subprocess
import threading
from contextlib import closing

import pytest

from django_srq import queues
from django_srq.consumer.outage import Outage, trouble_with
from django_srq.exceptions import OutcomeUnknown
from django_srq.transport.clients import client_from_url
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import PATIENT, wait_for

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def test_the_first_and_the_last_lines_count_over_all_processes(project):
    queues["note"].put_many(["a", "b", "c"])
    queues["failing"].put_many(["d", "e"])
    code, _, err = project.run("srq_consume", "note", "failing", "--burst", "--processes", "2", "--threads", "3")
    assert code == 0
    lines = [line.split(" ", 3)[3] for line in err.splitlines() if " INFO " in line]
    address = queues["note"].link.address
    # The keeper logs these lines, while the children, which do not wait for it, log theirs.
    start, note, failing = [line for line in lines if line.startswith(("consumer ", "serving "))]
    assert re.fullmatch(r"consumer c\w{10} started: 2 processes, 3 threads; Ctrl-C or SIGTERM stops it", start)
    assert note == f"serving queue=note server={address} handler=tests.support.handlers.note lease=0.6s"
    assert failing == f"serving queue=failing server={address} handler=tests.support.handlers.failing lease=0.6s"
    assert re.fullmatch(r"done: 5 deliveries, 3 acked, 2 failed in \d+\.\d s", lines[-1])


def test_the_last_line_counts_items_that_were_cut_short(project):
    queues["told"].put({"do": "exit"})
    _, _, err = project.run("srq_consume", "told", "--burst")
    assert re.search(r"INFO done: 2 deliveries, 1 acked, 0 failed, 1 ended with their process in \d+\.\d s\n", err)
    assert "WARNING its process ended, will be tried again queue=told uid=" in err


def test_a_consumer_without_child_processes_says_the_same(project):
    queues["note"].put("a")
    code, _, err = project.run("srq_consume", "note", "--burst", "--processes", "0")
    assert code == 0
    assert "started: in this process, 1 thread; Ctrl-C or SIGTERM stops it" in err
    assert "INFO done: 1 delivery, 1 acked, 0 failed in" in err


def test_an_address_has_no_password(project, server):
    server.client().config_set("requirepass", "hunter2")
    url = f"redis://:hunter2@127.0.0.1:{server.port}/0"
    project.configure({"q": {"HANDLER": "tests.support.handlers.note", "URL": url}}, {})
    code, _, err = project.run("srq_consume", "--burst", "--processes", "0")
    assert code == 0
    assert f"server=127.0.0.1:{server.port}/0 " in err
    assert "hunter2" not in err


# -- outages


def test_an_outage_names_the_server_and_how_long_it_lasted(queue, caplog):
    caplog.set_level("INFO", "django_srq.consumer")
    error = OutcomeUnknown("no reply to ack within 5 s; call again: it is safe to repeat")
    error.advice = "call again: it is safe to repeat"
    outage, trouble, other = Outage(), trouble_with(queue, error), "10.0.0.1:6379/0\nqueue=x error=refused"
    for troubles in ([trouble], [trouble, trouble], [other, trouble], ["", other], [""]):
        outage.report(*troubles)
    address = queue.link.address
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == (
        f"server unavailable, waiting server={address} queue={queue.alias} error=no reply to ack within 5 s"
    )
    assert said[1] == "server unavailable, waiting server=10.0.0.1:6379/0 queue=x error=refused"
    assert re.fullmatch(rf"server available again server={re.escape(address)} after \d+\.\d s", said[2])
    assert re.fullmatch(r"server available again server=10\.0\.0\.1:6379/0 after \d+\.\d s", said[3])
    assert len(said) == 4


def test_an_error_of_a_call_has_its_advice(silent_queue):
    with pytest.raises(OutcomeUnknown) as caught:
        silent_queue.ack("uid")
    assert caught.value.advice == "call again: it is safe to repeat"
    assert str(caught.value).endswith(f"; {caught.value.advice}")
    assert "safe to repeat" not in trouble_with(silent_queue, caught.value)


@pytest.fixture
def silent_queue(server, at):
    queue = at(server.url)
    queue.put("x")  # it has a connection, so the call is sent
    os.kill(server.process.pid, signal.SIGSTOP)
    queue.link.timeout = 0.2
    yield queue
    os.kill(server.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("silent", [True, False])
@pytest.mark.parametrize(("processes", "servers", "limit"), [("1", 1, PATIENT), ("1", 2, PATIENT), ("0", 1, 2)])
def test_ctrl_c_does_not_wait_for_a_server_that_is_away_when_nothing_is_in_hand(
    project, processes, servers, limit, silent
):
    """The limit is far below the time that calls to a silent server, and the last reports, may take otherwise."""
    made = [Server() for _ in range(servers)]
    try:
        handled = {"HANDLER": "tests.support.handlers.note"}
        project.configure(
            {f"q{number}": {**handled, "URL": server.url} for number, server in enumerate(made)},
            {"TIMEOUT": limit, "LEASE": 3},
        )
        with (project.folder / "err").open("w") as err:
            process = project.start("srq_consume", "--processes", processes, stderr=err)
            for number in range(servers):
                wait_for(lambda alias=f"q{number}": queues[alias].snapshot().consumers, "the consumer")
            for server in made:
                os.kill(server.process.pid, signal.SIGSTOP) if silent else server.kill()
            read = (project.folder / "err").read_text
            wait_for(lambda: read().count("server unavailable") == servers, "word of the outage")
            process.send_signal(signal.SIGINT)
            assert process.wait(11) == 0
        assert "done: 0 deliveries" in read()
    finally:
        for server in made:
            if server.process.poll() is None:
                os.kill(server.process.pid, signal.SIGCONT)
            server.close()


# Each of these alone would hold up the end for a minute, or for as long as the test waits: nobody waits them out.
MINUTE = "\n".join(
    [
        "from django_srq.consumer import leases",
        "from django_srq.consumer.processes import keeper, keeper_main, reports, supervisor",
        "from django_srq.consumer.worker import claims, retries",
        "leases.PATIENCE = keeper.PATIENCE = keeper_main.PATIENCE = supervisor.FORMAL_WORDS = claims.PASSING_ON = 60",
        "reports.PATIENCE, reports.HUNG, retries.LAST_WORDS, supervisor.LAST_WORDS = 60, 180, 60, 60",
        "leases.LONGEST_INTERVAL = 0.1",  # so that a renewal is under way at the end
    ]
)


@pytest.fixture
def muted(project):
    """Starts a consumer of queues on servers of their own, and stops these servers: nobody has noticed yet."""
    made: list[Server] = []

    def start(servers: int, *arguments: str, err: object = subprocess.DEVNULL, **defaults: object) -> subprocess.Popen:
        made.extend(Server() for _ in range(servers))
        handled = {"HANDLER": "tests.support.handlers.note"}
        project.configure(
            {f"q{number}": {**handled, "URL": server.url} for number, server in enumerate(made)},
            {"TIMEOUT": PATIENT, "LEASE": 600, **defaults},
        )
        project.add_to_settings(MINUTE)
        process = project.start("srq_consume", *arguments, stderr=err)
        for number in range(servers):
            wait_for(lambda alias=f"q{number}": queues[alias].snapshot().consumers, "the consumer")
        wait_for(lambda: any(_waits(server) for server in made), "its wait on a server")
        for server in made:
            os.kill(server.process.pid, signal.SIGSTOP)
        return process

    start.servers = made
    yield start
    for server in made:
        os.kill(server.process.pid, signal.SIGCONT)
        server.close()


def _waits(server: Server) -> bool:
    with server.client() as client:
        return any("b" in connection["flags"] for connection in client.client_list())


# Each number of processes is tested with each number of servers and with each signal, each of those with each signal.
@pytest.mark.parametrize(
    ("processes", "servers", "number"),
    [
        ("0", 1, signal.SIGINT),
        ("0", 3, signal.SIGTERM),
        ("1", 1, signal.SIGTERM),
        ("1", 3, signal.SIGINT),
        ("3", 1, signal.SIGINT),
        ("3", 3, signal.SIGTERM),
    ],
)
def test_a_stop_waits_once_for_servers_that_have_just_become_silent(muted, tmp_path, processes, servers, number):
    """All last calls to all servers together get the time of one; see ``MINUTE``."""
    with (tmp_path / "err").open("w") as err:
        process = muted(servers, "--processes", processes, err=err)
        process.send_signal(number)
        assert process.wait(20) == 0
    said = (tmp_path / "err").read_text()
    assert "done: 0 deliveries" in said
    assert "available again" not in said


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_stop_without_time_for_all_queues_calls_no_server_unavailable(project, server_url, tmp_path, processes):
    """The last calls to the first queues were answered: the server is there."""
    with closing(Proxy(server_url)) as proxy, (tmp_path / "err").open("w") as err:
        handled = {"HANDLER": "tests.support.handlers.note", "URL": proxy.url}
        project.configure({"q0": handled, "q1": handled, "q2": handled}, {"TIMEOUT": PATIENT, "LEASE": 600})
        process = project.start("srq_consume", "--processes", processes, stderr=err)
        wait_for(lambda: queues["q2"].snapshot().consumers, "the consumer")
        with client_from_url(server_url) as client:
            wait_for(lambda: any("b" in each["flags"] for each in client.client_list()), "its wait on the server")
        fault = proxy.arm("stall request", queues["q1"].keys["wake"].encode())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert fault.hits == 1
    assert "unavailable" not in (tmp_path / "err").read_text()


def test_files_that_the_code_of_a_project_left_open_are_written_at_the_end(project):
    """Python closes those in a cycle, such as a module with functions, only when it looks for garbage at its end."""
    project.add_to_settings("AUDIT = open('audit', 'w')\nAUDIT.write('loaded')\n\ndef audit():\n    return AUDIT")
    project.add_to_settings("import gc\ngc.unfreeze()  # what the settings of the tests' commands have frozen")
    code, _, err = project.run("srq_consume", "--burst")
    assert code == 0, err
    assert (project.folder / "audit").read_text() == "loaded"


@pytest.mark.parametrize("processes", ["1", "3"])
def test_a_second_ctrl_c_does_not_wait_for_a_silent_server(muted, tmp_path, processes):
    with (tmp_path / "err").open("w") as err:
        process = muted(2, "--processes", processes, err=err)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: "stopping" in (tmp_path / "err").read_text(), "word that it has the first one")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in {0, 130}  # 0: it was at its end already


def test_an_item_put_while_the_server_was_silent_is_handled_once(project, muted):
    """The claim behind the wait of the consumer that has ended takes it, or the next consumer does."""
    process = muted(1, LEASE=3)
    queue, (server,) = project.patient("q0"), muted.servers
    putting = threading.Thread(target=queue.put, args=["a"])
    putting.start()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    os.kill(server.process.pid, signal.SIGCONT)
    putting.join()
    project.start("srq_consume", "--max-items", "1", stderr=subprocess.DEVNULL).wait(60)
    assert [line.partition(" ")[0] for line in project.lines()] == ["a"]
    assert not any(queue.counts().values())


# -- on a terminal


def on_terminal(project, *arguments: str, **environment: str) -> str:
    """What a consumer writes to a terminal as its standard error."""
    screen, end = pty.openpty()
    process = project.start("srq_consume", "--burst", *arguments, stderr=end, environment=environment)
    os.close(end)
    written = b""
    while data := _read(screen):
        written += data
    os.close(screen)
    process.wait(60)
    return written.decode().replace("\r\n", "\n")


def _read(screen: int) -> bytes:
    try:
        return os.read(screen, 65536)
    except OSError:  # the last process that had the terminal has ended
        return b""


def test_lines_on_a_terminal_are_short_and_coloured(project):
    uid = queues["note"].put("a")
    queues["failing"].put("b", uid="order-17")
    text = on_terminal(project, "note", "failing")
    assert f"\x1b[32;1macked    \x1b[0m …{uid[-12:]} note 0.0" in text
    plain = COLOUR.sub("", text)
    assert re.search(r"^\d\d:\d\d:\d\d acked     …\w{12} note 0\.\d{3}s$", plain, re.MULTILINE)
    assert re.search(
        r"^\d\d:\d\d:\d\d retrying  order-17 failing 0\.\d{3}s LookupError: cannot handle b\nTraceback",
        plain,
        re.MULTILINE,
    )
    assert re.search(r"^\d\d:\d\d:\d\d consumer c\w+ started: ", plain, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d done: 2 deliveries, 1 acked, 1 failed in \d+\.\d s$", plain, re.MULTILINE)
    assert "queue=note uid=" not in plain


@pytest.mark.parametrize(
    ("arguments", "environment"), [(["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {"DJANGO_COLORS": "nocolor"})]
)
def test_a_terminal_without_colours(project, arguments, environment):
    queues["note"].put("a")
    text = on_terminal(project, "note", *arguments, **environment)
    assert "\x1b" not in text
    assert re.search(r"^\d\d:\d\d:\d\d acked     …", text, re.MULTILINE)


def test_colours_can_be_forced_and_a_file_gets_logfmt(project):
    queues["note"].put("a")
    _, _, err = project.run("srq_consume", "note", "--burst", "--force-color")
    assert "\x1b[32;1macked" in err
    queues["note"].put("a")
    _, _, err = project.run("srq_consume", "note", "--burst")
    assert "\x1b" not in err
    assert re.search(r" INFO acked queue=note uid=\S+ deliveries=1 duration=0\.\d{3}\n", err)


def test_a_terminal_with_verbosity_0_is_silent(project):
    queues["note"].put("a")
    assert on_terminal(project, "note", "--verbosity", "0") == ""


def test_a_project_with_its_own_handlers_gets_these_lines_as_records(project, caplog):
    caplog.set_level(logging.INFO, "django_srq")
    queues["note"].put("a")
    assert project.call("srq_consume", "note", "--burst", "--processes", "0") == (0, "", "")
    words = [record.msg for record in caplog.records if record.name == "django_srq.consumer"]
    assert words[0] == "consumer %s started: %s; Ctrl-C or SIGTERM stops it"
    assert "serving queue=%s server=%s handler=%s lease=%gs" in words
    assert words[-1] == "done: %s in %.1f s"
