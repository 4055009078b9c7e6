"""srq_requeue, srq_purge, srq_drop, srq_recover, srq_pause, srq_resume: what they do, print and ask."""

from __future__ import annotations

import argparse
import datetime as dt
import errno
import getpass
import io
import json
import os
import pty
import re
import signal
import termios
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper

from django_srq import SafeRedisQueue, operations, queues
from django_srq.management.arguments import duration, moment
from django_srq.management.commands import srq_pause
from django_srq.management.progress import Progress
from django_srq.operations import DeliveryRef
from tests.support.project import ROOT
from tests.support.server_clock import now, pass_time

pytestmark = pytest.mark.versions

COMMANDS = ["srq_requeue", "srq_purge", "srq_recover", "srq_pause", "srq_resume"]  # srq_drop needs a --uid
BULK = COMMANDS[:3]
CODES = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture
def project(project, server_url, prefix, dead_port):
    """Queues on the server under test, a queue without automatic recovery, and two on an unreachable server."""
    away = f"redis://:secret@127.0.0.1:{dead_port}/0"
    project.configure(
        {
            "orders": {},
            "mail": {},
            "careful": {"AUTOCLEAN_INTERVAL": None},
            "far": {"URL": away, "TIMEOUT": 0.3},
            "farther": {"URL": away, "TIMEOUT": 0.3},
        },
        {"URL": server_url, "PREFIX": prefix + ".{alias}", "MAX_DELIVERIES": 1},
    )
    return project


def die(alias: str, *errors: str) -> list[str]:
    queue, uids = queues[alias], []
    for error in errors:
        uids.append(queue.put("x"))
        assert queue.fail(queue.get(-1), error) == "dead"
    return uids


def die_many(queue: SafeRedisQueue, number: int) -> None:
    queue.put_many(["x"] * number)
    error = b'{"type":"Lost","message":"m"}'
    for item in queue.get_many(number):
        queue.link.call(operations.fail(queue.keys, DeliveryRef(item.uid), error=error, bury=True), queue=queue.alias)


def in_each_state(alias: str) -> None:
    queue = queues[alias]
    die(alias, "a", "b")
    queue.put_many("abc")
    queue.get(-1)
    queue.put("later", delay=1000)


def states(alias: str) -> tuple[int, ...]:
    """The numbers of items that are ready, in flight, delayed and dead."""
    return tuple(queues[alias].counts().values())


def let_leases_end(client, alias: str, number: int) -> None:
    queue = queues[alias]
    queue.put_many(["x"] * number)
    queue.get_many(number)
    pass_time(client, queue.keys, 1000)


def said(command: str, *arguments: str) -> list[dict[str, object]]:
    """Run a command in this process; returns its rows."""
    out = io.StringIO()
    options = ["--no-input"] if command in BULK and "--dry-run" not in arguments else []
    call_command(command, *arguments, *options, "--format", "json", stdout=out, stderr=io.StringIO())
    rows: list[dict[str, object]] = json.loads(out.getvalue())["queues"]
    return rows


class Terminal:
    """A terminal for a command: answers its question and collects its output."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (24, 80))
        self.text = ""

    def run(
        self, project, *arguments: str, answer: str | None = None, cut: bool = False, **options: object
    ) -> tuple[int, str]:
        """Run a command on this terminal and type the answer, if one is given; returns its exit code and its stdout."""
        process = project.start(*arguments, **{"stdin": self.theirs, "stderr": self.theirs, **options})
        os.close(self.theirs)
        if answer is not None or cut:
            self.read_until("[y/N] ")
        if cut:
            process.send_signal(signal.SIGINT)
        elif answer is not None:
            os.write(self.ours, answer.encode())
        self.read_until(None)
        out = process.stdout.read() if process.stdout else ""
        return process.wait(60), out

    def call(self, project, *arguments: str, answer: str = "") -> tuple[int, str]:
        """As ``run``, but within this process."""

        def type_answer() -> None:
            self.read_until("[y/N] ")
            os.write(self.ours, answer.encode())

        screen = os.fdopen(os.dup(self.theirs), "w")
        with screen, os.fdopen(self.theirs, "r") as keyboard, ThreadPoolExecutor(1) as user:
            typed = user.submit(type_answer) if answer else None
            code, out, _ = project.call(*arguments, stdin=keyboard, stderr=screen)
            if typed:
                typed.result()
        self.read_until(None)
        return code, out

    def read_until(self, text: str | None) -> None:
        deadline = time.monotonic() + 60
        while text is None or text not in self.text:
            assert time.monotonic() < deadline, f"waited in vain for {text!r}: {self.text!r}"
            try:
                data = os.read(self.ours, 10_000)
            except OSError as error:
                assert error.errno == errno.EIO, error  # noqa: PT017 (the other end is closed)
                data = b""
            if not data:
                assert text is None, f"ended without {text!r}: {self.text!r}"
                return
            self.text += data.decode()


@pytest.fixture
def terminal():
    made = Terminal()
    yield made
    os.close(made.ours)


# -- what the commands do


def test_requeue_all(project):
    uids = die("orders", "a", "b")
    code, out, err = project.call("srq_requeue", "orders", "--no-input")
    assert (code, out, err) == (0, "QUEUE   REQUEUED\norders         2\n", "")
    assert [item.uid for item in queues["orders"].items()] == uids


def test_requeue_by_error_age_and_limit(project, client):
    queue = queues["orders"]
    uids = die("orders", "a", "b", "a", "a", "a")
    moments = [now(client) - 3_600_000 * hours for hours in (5, 5, 4, 3, 1)]
    client.zadd(queue.keys["dead"], dict(zip(uids, moments, strict=True)))
    assert said("srq_requeue", "orders", "--error", "Failed: a", "--older-than", "2h30m", "--limit", "2") == [
        {"queue": "orders", "requeued": 2}
    ]
    assert [item.uid for item in queue.items()] == [uids[0], uids[2]]
    assert [item.uid for item in queue.items("dead")] == [uids[1], uids[3], uids[4]]


def test_requeue_by_uid_changes_only_those_items(project):
    uids = die("orders", "a", "b", "c")
    ready = queues["orders"].put("x")
    arguments = [part for uid in (uids[2], uids[2], uids[0], ready, "unknown") for part in ("--uid", uid)]
    assert said("srq_requeue", "orders", "--dry-run", *arguments) == [{"queue": "orders", "requeued": 2}]
    assert said("srq_requeue", "orders", *arguments) == [{"queue": "orders", "requeued": 2}]
    assert [item.uid for item in queues["orders"].items("dead")] == [uids[1]]


def test_requeue_by_uid_says_which_state_other_items_have(project):
    """Each sentence names the command that helps. Nothing is done, and the exit code is that of nothing to do."""
    queue = queues["orders"]
    queue.put("x", uid="held")
    queue.get(-1)
    queue.put("x", uid="late", delay=1000)
    queue.put("x", uid="it's")
    before = states("orders")
    arguments = [part for uid in ("held", "late", "it's", "gone") for part in ("--uid", uid)]
    code, out, err = project.call("srq_requeue", "orders", "--no-input", *arguments)
    assert (code, out) == (0, "QUEUE   REQUEUED\norders         0\n")
    assert err.splitlines() == [
        "orders: held is in flight: srq_recover orders makes it ready if its lease has ended.",
        "orders: late is delayed, not dead: srq_requeue orders --state delayed --uid late makes it ready now.",
        "orders: it's is ready already: srq_status orders shows whether consumers take it.",
        "orders: no item 'gone': it was handled or deleted, or was never put",
    ]
    assert states("orders") == before
    die("orders", "a")  # the item that was ready
    _, _, err = project.call("srq_requeue", "orders", "--state", "delayed", "--uid", "it's", "--dry-run")
    assert (
        err.splitlines()[0]
        == "orders: it's is dead, not delayed: srq_requeue orders --uid 'it'\"'\"'s' makes it ready again."
    )


def test_requeue_explains_a_bounded_number_of_items(project):
    arguments = [part for n in range(15) for part in ("--uid", f"u{n}")]
    _, _, err = project.call("srq_requeue", "orders", "--no-input", *arguments)
    assert len(err.splitlines()) == 11
    assert err.splitlines()[-1] == "orders: 5 more items are not dead."


@pytest.fixture
def retrying(project, server_url, prefix) -> list[str]:
    """The uids of delayed items of the queue orders: three that wait after an error, and one that is scheduled."""
    project.configure({"orders": {"MAX_DELIVERIES": 9}}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
    queue, uids = queues["orders"], []
    for n, error in enumerate("aba"):
        uids.append(queue.put("x"))
        assert queue.fail(queue.get(-1), error, delay=1000 + n) == "delayed"
    return [*uids, queue.put("later", delay=500)]


def test_delayed_items_are_made_ready_by_uid(retrying):
    arguments = [part for uid in retrying[2:] for part in ("--uid", uid)]
    rows = [{"queue": "orders", "requeued": 2}]
    assert said("srq_requeue", "orders", "--state", "delayed", "--dry-run", *arguments) == rows
    assert states("orders") == (0, 0, 4, 0)
    assert said("srq_requeue", "orders", "--state", "delayed", *arguments) == rows
    assert [(item.uid, item.deliveries) for item in queues["orders"].items()] == [(retrying[2], 1), (retrying[3], 0)]


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ([], 3),
        (["--error", "Failed: a"], 2),
        (["--error", "Failed"], 3),
        (["--error", "Failed: a", "--limit", "1"], 1),
        (["--older-than", "1h"], 0),
    ],
)
def test_delayed_items_are_made_ready_that_wait_after_an_error(retrying, options, number):
    rows = [{"queue": "orders", "requeued": number}]
    assert said("srq_requeue", "orders", "--state", "delayed", "--dry-run", *options) == rows
    assert said("srq_requeue", "orders", "--state", "delayed", *options) == rows
    assert states("orders") == (number, 0, 4 - number, 0)


def test_the_question_about_delayed_items_lists_their_errors(project, retrying, terminal):
    code, out = terminal.call(project, "srq_requeue", "orders", "--state", "delayed", answer="y\n")
    assert (code, out) == (0, "QUEUE   REQUEUED\norders         3\n")
    assert terminal.text.replace("\r\n", "\n").startswith(
        "orders: 2 Failed: a\norders: 1 Failed: b\norders: 1 scheduled, which stay delayed\n"
        "Make 3 items of orders ready now? [y/N] "
    )
    assert states("orders") == (3, 0, 1, 0)


def test_delayed_items_of_one_error_are_purged(project, retrying):
    options = ["--state", "delayed", "--error", "Failed: a"]
    rows = [{"queue": "orders", "purged": 2, "spared_in_flight": 0}]
    assert said("srq_purge", "orders", "--dry-run", *options) == rows
    assert said("srq_purge", "orders", *options) == rows
    assert states("orders") == (0, 0, 2, 0)


@pytest.mark.parametrize(
    ("options", "purged", "left"),
    [
        ([], 5, (0, 1, 0, 0)),
        (["--state", "ready"], 2, (0, 1, 1, 2)),
        (["--state", "delayed"], 1, (2, 1, 0, 2)),
        (["--state", "dead"], 2, (2, 1, 1, 0)),
        (["--state", "dead", "--error", "Failed: b"], 1, (2, 1, 1, 1)),
        (["--state", "dead", "--older-than", "1d"], 0, (2, 1, 1, 2)),
        (["--state", "dead", "--limit", "1"], 1, (2, 1, 1, 1)),
    ],
)
def test_purge_and_its_dry_run(project, options, purged, left):
    in_each_state("orders")
    before = states("orders")
    rows = [{"queue": "orders", "purged": purged, "spared_in_flight": 1}]
    assert said("srq_purge", "orders", "--dry-run", *options) == rows
    assert states("orders") == before
    assert said("srq_purge", "orders", *options) == rows
    assert states("orders") == left


def test_purge_counts_the_items_in_flight_that_it_spared(project):
    in_each_state("orders")
    code, out, err = project.run("srq_purge", "orders", "--no-input")
    assert (code, err) == (0, "")
    assert out == "QUEUE   PURGED  SPARED IN FLIGHT\norders       5                 1\n"


def test_recover_without_automatic_recovery(project, client):
    let_leases_end(client, "careful", 2)
    queues["careful"].put("x")
    queues["careful"].get(-1)
    queues["mail"].put("x")
    assert said("srq_recover", "careful", "mail", "--dry-run") == [
        {"queue": "careful", "leases": 2, "ready": None},
        {"queue": "mail", "leases": 0, "ready": 0},
    ]
    code, out, err = project.call("srq_recover", "careful", "mail", "--no-input")
    assert (code, err) == (0, "")
    assert out == "QUEUE    LEASES  READY\ncareful       2      0\nmail          0      0\n"
    # MAX_DELIVERIES is 1, and the delivery counts, so the items are dead.
    assert states("careful") == (0, 1, 0, 2)


def test_recover_makes_items_ready(project, client, server_url, prefix):
    project.configure({"orders": {"URL": server_url, "PREFIX": prefix, "AUTOCLEAN_INTERVAL": None}}, {})
    let_leases_end(client, "orders", 150)
    assert queues["orders"].get(-1).uid is None
    assert said("srq_recover", "--all") == [{"queue": "orders", "leases": 150, "ready": 150}]
    assert states("orders") == (150, 0, 0, 0)


def test_pause_and_resume(project):
    code, out, err = project.call("srq_pause", "orders", "mail", "--reason", "stock-taking", "--by", "anna")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "QUEUE   PAUSED  WAS PAUSED  UNTIL  BY",
        "orders  yes     no          -      anna",
        "mail    yes     no          -      anna",
    ]
    paused = queues["orders"].snapshot().paused
    assert (paused["by"], paused["reason"]) == ("anna", "stock-taking")
    code, out, err = project.call("srq_resume", "mail", "orders", "careful", "--format", "jsonl")
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"queue": "mail", "paused": False, "was_paused": True},
        {"queue": "orders", "paused": False, "was_paused": True},
        {"queue": "careful", "paused": False, "was_paused": False},
    ]
    assert queues["orders"].snapshot().paused is None


def test_pause_until(project):
    (row,) = said("srq_pause", "orders", "--until", "2099-01-31T12:00+01:00")
    assert row == {
        "queue": "orders", "paused": True, "was_paused": False, "until": "2099-01-31T11:00:00.000Z",
        "by": getpass.getuser(),
    }  # fmt: skip
    assert queues["orders"].snapshot().paused["until"] == 4_073_540_400_000


def test_a_pause_for_a_duration_counts_by_the_server_s_clock(project, client):
    before = now(client)
    said("srq_pause", "orders", "--until", "30m")
    assert before + 1_800_000 <= queues["orders"].snapshot().paused["until"] <= now(client) + 1_800_000


def test_a_naive_time_is_in_the_project_s_time_zone(project, settings):
    settings.TIME_ZONE = "America/New_York"
    out = io.StringIO()
    call_command("srq_pause", "orders", "--until", "2099-07-01T12:00", "--by", "anna", stdout=out)
    assert queues["orders"].snapshot().paused["until"] == dt.datetime(2099, 7, 1, 16, tzinfo=dt.UTC).timestamp() * 1000
    assert "2099-07-01 12:00:00-04:00" in out.getvalue()


def test_a_pause_by_a_user_without_a_name_has_the_user_id(project, monkeypatch):
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(srq_pause.getpass, "getuser", nobody)
    (row,) = said("srq_pause", "orders")
    assert row["by"] == f"uid {os.getuid()}"


# -- which queues


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_queue_stops_the_whole_command(project, command):
    """The command changes none of the known queues either."""
    die("orders", "a")
    with pytest.raises(CommandError, match=r"^Unknown queue 'maill'\. Did you mean 'mail'\? Known: orders, ") as caught:
        said(command, "orders", "maill")
    assert caught.value.returncode == 2
    assert states("orders") == (0, 0, 0, 1)
    assert queues["orders"].snapshot().paused is None


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_need_a_queue_name(project, command):
    with pytest.raises(CommandError, match=r"^Name queues.*known: orders, mail") as caught:
        said(command)
    assert caught.value.returncode == 2
    assert ("--all" in str(caught.value)) == (command not in BULK[:2])


def test_the_exit_code_and_streams_for_an_unknown_queue(project):
    code, out, err = project.call("srq_purge", "maill", "--no-input")
    assert (code, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("command", ["srq_requeue", "srq_purge"])
def test_requeue_and_purge_refuse_all_queues(project, command):
    in_each_state("orders")
    code, out, err = project.call(command, "--all", "--no-input")
    assert (code, out, "unrecognized arguments: --all" in err) == (2, "", True)
    assert states("orders") == (2, 1, 1, 2)


def test_queue_names_and_all_exclude_each_other(project):
    code, _, err = project.call("srq_pause", "orders", "--all")
    assert (code, "not both" in err) == (2, True)
    assert queues["orders"].snapshot().paused is None


@pytest.mark.parametrize("command", ["srq_pause", "srq_resume", "srq_recover"])
def test_queues_of_an_unreachable_server_are_skipped_after_the_first(project, command):
    options = ["--no-input"] if command in BULK else []
    code, out, err = project.call(command, "--all", "--format", "jsonl", *options)
    assert code == 69
    assert [json.loads(line)["queue"] for line in out.splitlines()] == ["orders", "mail", "careful"]
    first, second = err.splitlines()
    assert "queue 'far'" in first
    assert second.startswith("queue 'farther' was skipped: it is on the same server, 127.0.0.1:")
    assert "secret" not in err


@pytest.mark.parametrize("command", ["srq_requeue", "srq_purge"])
def test_an_unreachable_server_is_one_line_on_stderr(project, command):
    code, out, err = project.call(command, "far", "--no-input")
    assert (code, out, len(err.splitlines())) == (69, "", 1)
    assert "secret" not in err


@pytest.mark.parametrize("command", [["srq_put", "x"], ["srq_pause"], ["srq_resume"], ["srq_requeue", "--no-input"]])
@pytest.mark.parametrize("wrong", [{"HANDLER": "nowhere.to.be.found"}, {"PREFX": "x"}, {"SERIALIZER": "not.there"}])
def test_wrong_settings_of_another_queue_stop_no_command(project, server_url, prefix, command, wrong):
    project.configure({"orders": {}, "mail": wrong}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
    code, out, err = project.call(command[0], "orders", *command[1:])
    assert (code, err) == (0, "")
    assert out


@pytest.mark.parametrize("command", [["srq_put", "x"], ["srq_pause"], ["srq_requeue", "--no-input"]])
def test_wrong_settings_of_the_queue_are_one_line_on_stderr(project, command):
    project.configure({"orders": {"PREFX": "x"}}, {})
    code, out, err = project.call(command[0], "orders", *command[1:])
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "SRQ_QUEUES['orders'] has the unknown option 'PREFX'. Did you mean 'PREFIX'?" in err


# -- what the commands print


def test_the_json_keeps_its_shape(project):
    in_each_state("orders")
    die("mail", "a")
    code, out, err = project.call("srq_requeue", "orders", "mail", "--dry-run", "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "dry_run": True,
        "queues": [{"queue": "orders", "requeued": 2}, {"queue": "mail", "requeued": 1}],
    }
    code, out, err = project.call("srq_purge", "orders", "mail", "--no-input", "--format", "jsonl")
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"dry_run": False, "queue": "orders", "purged": 5, "spared_in_flight": 1},
        {"dry_run": False, "queue": "mail", "purged": 1, "spared_in_flight": 0},
    ]


def test_the_output_is_json_also_when_no_queue_was_reached(project):
    code, out, _ = project.call("srq_recover", "far", "--no-input", "--format", "json")
    assert (code, json.loads(out)) == (69, {"dry_run": False, "queues": []})


@pytest.mark.parametrize("command", [*COMMANDS, "srq_drop"])
def test_the_fields_are_those_of_the_reference(project, command):
    page = (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8")
    (documented,) = re.findall(rf"^\| `{command}` \| (.*) \|$", page, re.MULTILINE)
    (row,) = said(command, "orders", *(["--uid", "u", "--yes"] if command == "srq_drop" else []))
    assert list(row) == ["queue", *re.findall(r"`(\w+)`", documented)]


def test_dry_run_lists_the_errors(project):
    die("orders", "b", "a", "b", "c\x1b[2J")
    code, out, err = project.call("srq_requeue", "orders", "--dry-run")
    assert (code, out) == (0, "orders: would requeue 4 items\n")
    assert err.splitlines() == [
        "orders: 2 Failed: b",
        "orders: 1 Failed: a",
        "orders: 1 Failed: c\N{REPLACEMENT CHARACTER}[2J",
        "Only counted: nothing was done.",
    ]
    assert states("orders") == (0, 0, 0, 4)


def test_a_dry_run_says_what_the_limit_leaves(project):
    die("orders", "a", "b", "b")
    code, out, err = project.call("srq_purge", "orders", "--state", "dead", "--limit", "2", "--dry-run")
    assert (code, out) == (0, "orders: would purge 2 items\n")
    assert err.splitlines()[-2] == "orders: of these the 2 that died first (--limit)"


@pytest.mark.parametrize("command", [["srq_requeue", "orders"], ["srq_purge", "orders", "--state", "dead"]])
@pytest.mark.parametrize("how", ["--dry-run", "--no-input"])
def test_a_wrong_error_says_which_there_are(project, command, how):
    code, _, err = project.call(*command, "--error", "KeyErr", how)
    assert (code, err.splitlines()[0]) == (0, "orders: no item is dead")
    die("orders", "b", "a", "b")
    for shape in ("table", "json"):
        code, _, err = project.call(*command, "--error", "KeyErr\x1b", how, "--format", shape)
        assert code == 0
        assert err.splitlines()[:3] == [
            "orders: no dead item has the error 'KeyErr\N{REPLACEMENT CHARACTER}'. These are there:",
            "orders: 2 Failed: b",
            "orders: 1 Failed: a",
        ]
    code, _, err = project.call(*command, "--error", "Failed: b", "--older-than", "1h", how)
    assert (code, err.splitlines()[0]) == (0, "orders: no item with this error died that long ago (--older-than)")
    assert states("orders") == (0, 0, 0, 3)
    code, _, err = project.call(*command, "--error", "Failed: b", "--no-input")
    assert (code, err) == (0, "")


def test_requeue_by_uid_says_what_is_not_dead(project):
    (gone,) = die("orders", "a")
    ready = queues["orders"].put("x")
    code, out, err = project.call(
        "srq_requeue", "orders", "--uid", gone, "--uid", ready, "--uid", "no-such", "--no-input"
    )
    assert (code, out) == (0, "QUEUE   REQUEUED\norders         1\n")
    assert err.splitlines() == [
        f"orders: {ready} is ready already: srq_status orders shows whether consumers take it.",
        "orders: no item 'no-such': it was handled or deleted, or was never put",
    ]


def test_a_long_list_of_errors_is_cut(project):
    die("orders", *(f"{n:02}" for n in range(13)))
    err = io.StringIO()
    call_command("srq_requeue", "orders", "--dry-run", stdout=io.StringIO(), stderr=err)
    assert err.getvalue().splitlines()[-2:] == ["orders: 3 of other errors", "Only counted: nothing was done."]
    assert len(err.getvalue().splitlines()) == 12


@pytest.mark.parametrize("command", BULK)
def test_dry_run_counts_and_changes_nothing(project, client, command):
    in_each_state("orders")
    let_leases_end(client, "careful", 1)
    before = [states(alias) for alias in ("orders", "careful")]
    code, out, err = project.call(command, "orders", "careful", "--dry-run")
    would = {
        "srq_requeue": ["2 items", "0 items"],
        "srq_purge": ["5 items; 1 in flight would stay", "0 items; 1 in flight would stay"],
        "srq_recover": ["0 items", "1 item"],
    }[command]
    verb = command.removeprefix("srq_")
    assert (code, out) == (0, f"orders: would {verb} {would[0]}\ncareful: would {verb} {would[1]}\n")
    assert err.endswith("Only counted: nothing was done.\n")
    assert [states(alias) for alias in ("orders", "careful")] == before


# -- srq_drop


def test_drop_deletes_single_items(project):
    in_each_state("orders")
    queue = queues["orders"]
    uids = [item.uid for state in ("ready", "in_flight", "delayed", "dead") for item in queue.items(state)]
    assert len(uids) == 6
    chosen = [part for uid in (uids[0], *uids[2:5], "no-such") for part in ("--uid", uid)]
    for how in ("--dry-run", "--yes"):
        code, out, err = project.call("srq_drop", "orders", *chosen, how, "--format", "json")
        assert (code, err) == (0, "orders: no item 'no-such': it was handled or deleted, or was never put\n")
        rows = [{"queue": "orders", "dropped": 3, "spared_in_flight": 1}]
        assert json.loads(out) == {"dry_run": how == "--dry-run", "queues": rows}
        assert states("orders") == ((2, 1, 1, 2) if how == "--dry-run" else (1, 1, 0, 1))
    assert queue.audit() == []


def test_drop_says_what_it_would_do(project):
    in_each_state("orders")
    queue = queues["orders"]
    uids = [item.uid for state in ("in_flight", "dead") for item in queue.items(state)]
    chosen = [part for uid in uids for part in ("--uid", uid)]
    code, out, err = project.call("srq_drop", "orders", *chosen, "--dry-run")
    assert (code, out) == (0, "orders: would drop 2 items; 1 in flight would stay\n")
    assert err == "orders: 2 dead\nOnly counted: nothing was done.\n"


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 1), ("n\n", 1, 2)])
def test_drop_asks_and_says_what_it_keeps(project, terminal, answer, code, left):
    in_each_state("orders")
    held, gone = (next(iter(queues["orders"].items(state))).uid for state in ("in_flight", "dead"))
    ended, out = terminal.call(project, "srq_drop", "orders", "--uid", held, "--uid", gone, answer=answer)
    assert ended == code
    assert out == ("QUEUE   DROPPED  SPARED IN FLIGHT\norders        1                 1\n" if left == 1 else "")
    assert "Permanently delete 1 item of orders? 1 item in flight will be kept. [y/N]" in terminal.text
    assert states("orders") == (2, 1, 1, left)


def test_drop_needs_uids_and_a_terminal(project):
    code, out, err = project.call("srq_drop", "orders", "--yes")
    assert (code, out) == (2, "")
    assert "the following arguments are required: --uid" in err
    uid = queues["orders"].put("x")
    code, out, err = project.call("srq_drop", "orders", "--uid", uid)
    assert (code, out) == (2, "")
    assert "no terminal to ask for confirmation on" in err
    assert states("orders") == (1, 0, 0, 0)
    code, out, err = project.call("srq_drop", "unknown", "--uid", uid, "--yes")
    assert (code, out) == (2, "")
    assert "Unknown queue 'unknown'" in err


# -- the question


@pytest.mark.parametrize("command", BULK)
@pytest.mark.parametrize("filled", [True, False])
def test_without_a_terminal_nothing_is_changed(project, client, command, filled):
    if filled:
        in_each_state("orders")
        pass_time(client, queues["orders"].keys, 100)
    before = states("orders")
    run = project.run if command == "srq_purge" and filled else project.call
    code, out, err = run(command, "orders", stdin="y\n")
    assert (code, out) == (2, "")
    assert "Nothing was done: there is no terminal to ask for confirmation on. Give --no-input" in err
    assert states("orders") == before


@pytest.mark.parametrize("answer", ["y\n", " Yes\n"])
def test_on_a_terminal_the_command_asks(project, terminal, answer):
    die("orders", "a", "b", "b")
    ask = terminal.run if answer == "y\n" else terminal.call
    code, out = ask(project, "srq_requeue", "orders", answer=answer)
    assert (code, out) == (0, "QUEUE   REQUEUED\norders         3\n")
    assert terminal.text.splitlines() == [
        "orders: 2 Failed: b",
        "orders: 1 Failed: a",
        f"Requeue 3 items of orders? [y/N] {answer.rstrip()}",
    ]
    assert states("orders") == (3, 0, 0, 0)


@pytest.mark.parametrize("answer", ["n\n", "\n", "x\n", "\x04"])
def test_any_other_answer_changes_nothing(project, terminal, answer):
    in_each_state("orders")
    before = states("orders")
    assert terminal.call(project, "srq_purge", "orders", answer=answer) == (1, "")
    assert "orders: 2 ready, 1 delayed, 2 dead" in terminal.text
    assert "Permanently delete 5 items of orders? [y/N]" in terminal.text
    assert "Nothing was done." in CODES.sub("", terminal.text).splitlines()[-1]
    assert states("orders") == before


def test_ctrl_c_at_the_question_changes_nothing(project, client, terminal):
    let_leases_end(client, "careful", 1)
    before = states("careful")
    assert terminal.run(project, "srq_recover", "careful", cut=True) == (130, "")
    assert "Recover 1 item of careful? An item that a consumer is still working on would be" in terminal.text
    assert "Traceback" not in terminal.text
    assert states("careful") == before


def test_the_command_does_not_ask_when_there_is_nothing_to_do(project, terminal):
    assert terminal.call(project, "srq_requeue", "orders", "mail") == (
        0,
        "QUEUE   REQUEUED\norders         0\nmail           0\n",
    )
    assert terminal.text == ""


@pytest.mark.once
@pytest.mark.parametrize(("colour", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_errors_are_coloured_unless_the_user_forbids_it(project, terminal, monkeypatch, colour, coloured):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in colour.items():
        monkeypatch.setenv(name, value)
    # Django decides about colours by stdout.
    code, _ = terminal.run(project, "srq_pause", "orders", "--until", "2001-01-01", stdout=terminal.theirs)
    assert code == 2
    assert "--until is in the past" in terminal.text
    assert bool(CODES.search(terminal.text)) == coloured


# -- wrong arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["srq_requeue", "orders", "--uid", "u", "--limit", "1"], "--uid cannot be combined with"),
        (["srq_requeue", "orders", "--older-than", "2"], "a duration such as 90s, 30m, 2h, 7d or 1h30m, not '2'"),
        (["srq_requeue", "orders", "--limit", "0"], "a whole number above 0, not '0'"),
        (["srq_purge", "orders", "--error", "x"], "need --state dead"),
        (["srq_purge", "orders", "--state", "ready", "--limit", "1"], "need --state dead"),
        (["srq_purge", "orders", "--state", "delayed", "--limit", "1"], "--state delayed together with --error"),
        (["srq_purge", "orders", "--state", "in_flight"], "invalid choice"),
        (["srq_requeue", "orders", "--state", "ready"], "invalid choice"),
        (["srq_pause", "orders", "--until", "soon"], "or a duration such as 30m, not 'soon'"),
        (["srq_pause", "orders", "--until", "2001-01-01T00:00Z"], "--until is in the past"),
    ],
)
def test_wrong_arguments_change_nothing(project, arguments, says):
    in_each_state("orders")
    before = states("orders")
    code, out, err = project.call(*arguments, *(["--no-input"] if arguments[0] in BULK else []))
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert states("orders") == before
    assert queues["orders"].snapshot().paused is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("7d", 604_800), ("2w", 1_209_600), ("1h30m", 5400), ("0s", 0)],
)
def test_duration(text, seconds):
    assert duration(text) == dt.timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "2", "h", "-2h", "2 h", "2H", "1h 30m", "1e3s", "999999999w", "\N{ARABIC-INDIC DIGIT TWO}h"]
)
def test_invalid_durations(text):
    with pytest.raises(argparse.ArgumentTypeError, match="a duration such as"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00+01:00", dt.datetime(2026, 1, 31, 11, tzinfo=dt.UTC)),
        ("2026-01-31 12:00:30Z", dt.datetime(2026, 1, 31, 12, 0, 30, tzinfo=dt.UTC)),
        ("2026-01-31T12:00", dt.datetime(2026, 1, 31, 11, tzinfo=dt.UTC)),
        ("2026-07-31", dt.datetime(2026, 7, 30, 22, tzinfo=dt.UTC)),
        ("2h", dt.timedelta(hours=2)),
    ],
)
def test_moment(settings, text, expected):
    settings.TIME_ZONE = "Europe/Prague"
    assert moment(text) == expected


@pytest.mark.parametrize("text", ["", "0s", "12:00", "tomorrow", "2026-13-01", "90"])
def test_invalid_times(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a time such as"):
        moment(text)


# -- progress and interruption


class Stream(io.StringIO):
    def isatty(self) -> bool:
        return False


def test_progress_is_a_line_every_five_seconds():
    times = iter([0.0, 1.0, 4.9, 5.0, 5.0, 9.0, 10.0, 10.0])
    stream = Stream()
    with Progress("requeue", 20_000, OutputWrapper(stream), clock=lambda: next(times)) as progress:
        for _ in range(5):
            progress.add(1000)
    assert stream.getvalue() == "requeue: 3,000 of 20,000 so far\nrequeue: 5,000 of 20,000 so far\n"


@pytest.mark.once
def test_progress_on_a_terminal_is_a_bar(project, terminal):
    die_many(queues["orders"], 1000)
    code, out = terminal.run(project, "srq_requeue", "orders", "--no-input")
    assert (code, out) == (0, "QUEUE   REQUEUED\norders      1000\n")
    assert "requeue:" in terminal.text
    assert "/1000 [" in terminal.text


@pytest.mark.once
@pytest.mark.parametrize("number", [999, 1000])
def test_no_bar_without_tqdm_or_for_few_items(project, terminal, number):
    if number == 1000:
        (project.folder / "tqdm.py").write_text("raise ImportError('not installed')\n")
    die_many(queues["orders"], number)
    code, out = terminal.run(project, "srq_purge", "orders", "--no-input")
    assert (code, out.splitlines()[1].split()) == (0, ["orders", str(number), "0"])
    assert terminal.text == ""


def test_no_bar_without_a_terminal(project):
    die_many(queues["orders"], 1000)
    assert project.call("srq_requeue", "orders", "--no-input")[2] == ""


def test_tqdm_is_imported_only_on_a_terminal(project):
    (project.folder / "tqdm.py").write_text("raise RuntimeError('imported')\n")
    die_many(queues["orders"], 1000)
    code, _, err = project.call("srq_requeue", "orders", "--no-input")
    assert (code, err) == (0, "")


def interrupting(project, signals: int) -> None:
    """Let the progress bar of the first batch send Ctrl-C so many times; it is a stand-in for tqdm."""
    (project.folder / "tqdm.py").write_text(
        "import os, signal\n"
        "class tqdm:\n"
        "    def __init__(self, **options): pass\n"
        "    def update(self, number):\n"
        f"        for _ in range({signals}): os.kill(os.getpid(), signal.SIGINT)\n"
        "    def close(self): pass\n"
    )


@pytest.mark.parametrize(
    ("command", "row", "left", "signals", "says"),
    [
        (["srq_requeue", "orders"], {"requeued": 250}, (250, 0, 0, 750), 1, "between two batches"),
        pytest.param(
            ["srq_purge", "orders", "--state", "dead"],
            {"purged": 250, "spared_in_flight": None},
            (0, 0, 0, 750),
            2,
            "in the middle of a batch",
            marks=pytest.mark.once,
        ),
    ],
)
def test_ctrl_c_stops_the_command_which_reports_its_work_so_far(project, terminal, command, row, left, signals, says):
    interrupting(project, signals)
    die_many(queues["orders"], 1000)
    die("mail", "a")
    code, out = terminal.run(project, *command, "mail", "--no-input", "--format", "json")
    assert code == 130
    assert json.loads(out) == {"dry_run": False, "queues": [{"queue": "orders", **row}]}
    assert f"Stopped {says}" in terminal.text
    assert "Traceback" not in terminal.text
    assert states("orders") == left
    assert states("mail") == (0, 0, 0, 1)


def test_the_command_restores_the_handler_of_ctrl_c(project):
    """This matters in a process that goes on, such as a shell."""
    die("orders", "a")
    before = signal.getsignal(signal.SIGINT)
    said("srq_requeue", "orders")
    assert signal.getsignal(signal.SIGINT) is before


def test_call_command_raises_the_errors(project):
    with pytest.raises(CommandError, match="Unknown queue") as caught:
        said("srq_purge", "nowhere")
    assert caught.value.returncode == 2


def test_an_error_of_one_queue_does_not_stop_the_others(project, client):
    """One queue's keys have a later layout: the command does the other queue, and its exit code is 1."""
    die("orders", "a")
    die("mail", "a")
    client.hset(queues["orders"].keys["meta"], "layout", 99)
    code, out, err = project.call("srq_requeue", "orders", "mail", "--no-input", "--format", "jsonl")
    assert (code, json.loads(out)) == (1, {"dry_run": False, "queue": "mail", "requeued": 1})
    assert "queue 'orders'" in err
    assert "99" in err
    assert states("mail") == (1, 0, 0, 0)


# -- standard streams that are closed, full, or not Unicode


@pytest.mark.parametrize(
    ("arguments", "closed", "code", "says"),
    [
        (["srq_put", "orders"], 0, 2, "Standard input is closed: name payloads."),
        pytest.param(
            ["srq_purge", "orders"], 0, 2, "there is no terminal to ask for confirmation on", marks=pytest.mark.once
        ),
        (["srq_status", "orders"], 1, 1, "standard output: Bad file descriptor"),
        pytest.param(
            ["srq_put", "orders", "x"],
            1,
            1,
            "standard output: Bad file descriptor; put before that: 1",
            marks=pytest.mark.once,
        ),
        pytest.param(["srq_pause", "orders"], 2, 0, "", marks=pytest.mark.once),
        (["srq_pause", "maill"], 2, 2, ""),
    ],
)
def test_a_closed_stream_is_one_line_on_stderr(project, arguments, closed, code, says):
    process = project.start(*arguments, closed=closed)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, len(err.splitlines())) == (code, bool(says))
    assert says in err


@pytest.mark.parametrize("arguments", [["srq_status", "orders"], ["srq_put", "orders", "x"]])
def test_a_full_output_is_one_line_on_stderr(project, arguments):
    with open("/dev/full", "w") as full:
        process = project.start(*arguments, stdout=full)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, len(err.splitlines())) == (1, 1)
    assert "standard output: No space left on device" in err


@pytest.mark.once
def test_a_closed_pipe_is_one_line_on_stderr(project):
    process = project.start("srq_status", "orders", "--watch", "0.05")
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read().endswith(" standard output: Broken pipe\n")
    assert process.wait(60) == 1


@pytest.mark.once
def test_the_option_traceback_shows_the_traceback(project):
    with open("/dev/full", "w") as full:
        process = project.start("srq_status", "orders", "--traceback", stdout=full)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err, "No space left" in err) == (1, True, True)


@pytest.mark.once
def test_ctrl_c_during_srq_put_is_one_line_with_the_number_of_puts(project):
    process = project.start("srq_put", "orders")
    process.stdin.write("x\n")
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.stderr.read() == "CommandError: Stopped; put before that: 1\n"
    assert process.wait(60) == 130


@pytest.mark.once
def test_characters_that_the_output_cannot_encode_are_escaped(project):
    process = project.start("srq_pause", "orders", "--by", "jürgen", environment={"PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.endswith(" j\\xfcrgen\n")


def test_drop_lets_a_uid_that_is_done_be_put_again(project):
    queue = queues["orders"]
    queue.put("x", uid="nightly", unique_for=3600)
    assert queue.ack(queue.get(-1))
    queue.put("y", uid="there", unique_for=3600)

    def drop(how: str) -> str:
        code, _, err = project.call("srq_drop", "orders", *(f"--uid={uid}" for uid in ("nightly", "there", "no")), how)
        assert code == 0
        assert "orders: no item 'no': it was handled or deleted, or was never put\n" in err
        return "".join(line for line in err.splitlines(keepends=True) if "nightly" in line)

    assert drop("--dry-run") == "orders: 'nightly' is done; its uid would be free to be put again\n"
    queue.put("x", uid="nightly")
    assert queue.states("nightly", "there") == [None, "ready"]
    assert drop("--no-input") == "orders: 'nightly' is done; its uid is free to be put again\n"
    queue.put("x", uid="nightly")
    assert queue.states("nightly", "there") == ["ready", None]


def test_drop_says_nothing_of_a_uid_whose_time_is_over(project, client):
    queue = queues["orders"]
    queue.put("x", uid="nightly", unique_for=3600)
    assert queue.ack(queue.get(-1))
    pass_time(client, queue.keys, 3601)
    code, _, err = project.call("srq_drop", "orders", "--uid", "nightly", "--yes")
    assert (code, err) == (0, "orders: no item 'nightly': it was handled or deleted, or was never put\n")
