from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper

from django_srq import queues, status
from django_srq.management import screen
from django_srq.management.base import StandardOutput
from django_srq.management.commands import srq_status
from django_srq.status import QueueReport, queue_data
from tests.support.servers import Server
from tests.support.waiting import wait_for

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parents[2]
CODES = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture
def configure(settings, server_url, prefix, tmp_path):
    """Configures these queues, for this process and for commands that run as real processes."""

    def configure(**options: dict[str, object]) -> None:
        settings.SRQ_QUEUES = {
            alias: {"URL": server_url, "PREFIX": f"{prefix}.{alias}", "HANDLER": "tests.support.handlers.note", **some}
            for alias, some in options.items()
        }
        text = f"from tests.support.settings import *\nSRQ_QUEUES = {settings.SRQ_QUEUES!r}\n"
        (tmp_path / "srq_settings.py").write_text(text)

    return configure


@pytest.fixture
def start(tmp_path):
    """Starts srq_status as a process."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, environment: dict[str, str] | None = None, **options: object) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        process = subprocess.Popen(
            [sys.executable, "-m", "django", "srq_status", *arguments],
            env={
                **inherited,
                "PYTHONPATH": f"{ROOT}:{tmp_path}",
                "DJANGO_SETTINGS_MODULE": "srq_settings",
                **(environment or {}),
            },
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def said(*arguments: str, **options: object) -> str:
    out = io.StringIO()
    call_command("srq_status", *arguments, stdout=out, **options)
    return out.getvalue()


# -- printed once


def test_table(configure):
    configure(orders={}, mail={}, bills={"MAX_DELIVERIES": 1})
    queues["orders"].put_many(range(1234))
    for _ in range(2):
        queues["bills"].put("x")
    queues["bills"].fail(queues["bills"].get(-1))
    lines = said().splitlines()
    assert lines[0].startswith(
        "Error: orders is stuck: 1,234 ready, and no consumer was ever seen. Start one: manage.py"
    )
    assert lines[1].startswith("Warning: bills has 1 dead item")
    while not lines[0].startswith("QUEUE"):
        del lines[0]
    head, *rows = lines[:4]
    assert head.split("  ")[0] == "QUEUE"
    assert {len(line) for line in (head, *rows)} == {len(head)}
    for row, alias, state, ready in zip(
        rows, ("orders", "mail", "bills"), ("stuck", "ok", "failing"), ("1,234", "0", "1"), strict=True
    ):
        assert row.split()[:2] == [alias, state]
        assert row[: head.index("READY") + len("READY")].endswith(f" {ready}")
    assert re.fullmatch(r"[\w.:/]+: (valkey|redis) [\d.]+, memory [\d.]+\s.B, read in [\d.]+ ms", lines[5])
    assert lines[6].endswith(" CST")  # the time zone of the settings


def test_the_table_has_the_rates_and_the_outlook_of_the_page(configure, client):
    configure(orders={}, mail={})
    queues["orders"].put_many(range(12_000))
    for _ in range(2):
        queues["orders"].ack(queues["orders"].get(-1))
    head, row = [line for line in said().splitlines() if re.match("QUEUE|orders ", line)]
    cells = dict(zip(re.split(r"  +", head), re.split(r"  +", row), strict=True))
    (report,) = (found for found in status.snapshot(minutes=60).queues if found.alias == "orders")
    assert re.fullmatch(r"2,[0-4]\d\d", cells["IN/MIN"])  # 12,000 in five minutes and the running one
    assert cells["OUT/MIN"] in ("0.3", "0.4")
    assert cells["OUTLOOK"] == report.outlook == "growing"


def test_retrying_items_are_told_apart_from_scheduled_ones(configure):
    report = QueueReport("orders", "there", ready=0, delayed=484, retrying=475)
    assert (report.scheduled, queue_data(report)["delayed"], queue_data(report)["retrying"]) == (9, 484, 475)
    shown = {name: srq_status._shown(read(report)) for name, read in srq_status.COLUMNS.items()}
    assert (shown["DELAYED"], shown["RETRYING"]) == ("484", "475")


def test_the_table_begins_with_the_verdict_when_all_is_well(configure):
    configure(orders={}, mail={})
    assert said().splitlines()[0] == "All 2 queues are healthy."
    assert said("mail").splitlines()[0] == "The queue mail is healthy."


def test_only_the_named_queues_are_printed(configure):
    configure(orders={}, mail={}, bills={})
    out = said("bills", "orders")
    assert re.findall(r"^(orders|mail|bills) ", out, re.MULTILINE) == ["orders", "bills"]


def test_json(configure):
    configure(orders={}, mail={})
    queues["orders"].put(1)
    data = json.loads(said("--format", "json"))
    assert data["sentence"].startswith("orders is stuck")
    assert [(queue["queue"], queue["ready"]) for queue in data["queues"]] == [("orders", 1), ("mail", 0)]
    assert data["servers"][0]["up"] is True
    numbers = [
        data["servers"][0]["latency"],
        *(n for q in data["queues"] for n in (q["oldest_wait"], *q["rates"].values())),
    ]
    assert all(len(str(number)) <= len("0.123456") for number in numbers)


def test_jsonl(configure):
    configure(orders={}, mail={})
    queues["orders"].put(1)
    lines = [json.loads(line) for line in said("--format", "jsonl").splitlines()]
    assert [(line["queue"], line["state"], line["ready"]) for line in lines] == [
        ("orders", "stuck", 1),
        ("mail", "ok", 0),
    ]
    assert all(line["at"].endswith("Z") for line in lines)


def test_a_misconfigured_queue_is_printed(configure, start):
    configure(orders={}, mail={"PREFX": 1})
    process = start()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (2, "CommandError: Misconfigured: mail.\n")
    assert "Did you mean 'PREFIX'?" in out
    assert re.search(r"^mail +misconfigured +- ", out, re.MULTILINE)
    assert re.search(r"^orders +ok +0 ", out, re.MULTILINE)


def test_control_characters_do_not_reach_the_terminal(configure):
    configure(**{"or\x1b[2Jders": {}})
    queues["or\x1b[2Jders"].pause("\x1b]0;title\x07", by="\r\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", said())


@pytest.mark.parametrize("arguments", [["emial"], ["mail", "emial"]])
def test_unknown_queue(configure, arguments):
    configure(orders={}, mail={})
    with pytest.raises(
        CommandError, match=r"Unknown queue 'emial'. Did you mean 'mail'\? Known: orders, mail."
    ) as caught:
        said(*arguments)
    assert caught.value.returncode == 2


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf"])
def test_an_invalid_interval(configure, seconds):
    configure(orders={})
    with pytest.raises(CommandError, match="a number of seconds above 0"):
        said(f"--watch={seconds}")


def test_exit_codes_and_streams(project, configure, start, dead_port):
    address = f"127.0.0.1:{dead_port}"
    configure(orders={}, mail={"URL": f"redis://:secret@{address}/0"})
    process = start()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 69
    assert f"The server {address}/0 is down" in out
    assert re.search(r"^orders +ok +0 ", out, re.MULTILINE)
    assert err == f"CommandError: Cannot be reached: {address}/0.\n"
    assert "secret" not in out

    code, out, err = project.call("srq_status", "orders", "--format", "jsonl")
    assert (code, err, json.loads(out)["queue"]) == (0, "", "orders")

    code, out, err = project.call("srq_status", "emial")
    assert (code, out, err.count("\n")) == (2, "", 1)


# -- for monitoring


def checked(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and message of srq_status --check."""
    out = io.StringIO()
    try:
        call_command("srq_status", "--check", *arguments, stdout=out)
    except CommandError as error:
        return error.returncode, out.getvalue(), str(error)
    return 0, out.getvalue(), ""


def test_check(configure):
    configure(orders={}, mail={})
    code, out, message = checked()
    assert (code, out.splitlines()[0], message) == (0, "All 2 queues are healthy.", "")
    assert "QUEUE" not in out
    queues["mail"].pause(by="anna")
    code, out, message = checked()
    assert (code, message) == (0, "")
    assert out.startswith("Warning: mail is paused (by anna")
    queues["orders"].put(1)
    code, out, message = checked()
    assert (code, message) == (3, "1 error found.")
    assert out.splitlines()[:2][0].startswith("Error: orders is stuck: 1 ready")
    assert checked("mail")[0] == 0
    code, out, _message = checked("--format", "json")
    assert (code, json.loads(out)["level"]) == (3, "error")
    said()  # without --check, an error is no failure of the command


def test_a_misconfigured_queue_comes_before_a_server_that_is_away_and_that_before_other_errors(configure, dead_port):
    down = {"URL": f"redis://127.0.0.1:{dead_port}/0"}
    configure(orders={}, mail=down, bills={"PREFX": 1})
    queues["orders"].put(1)
    assert checked("orders")[::2] == (3, "1 error found.")
    assert checked("orders", "mail")[::2] == (69, f"Cannot be reached: 127.0.0.1:{dead_port}/0.")
    assert checked("orders", "mail", "bills")[::2] == (2, "Misconfigured: bills.")
    with pytest.raises(CommandError, match="Misconfigured: bills.") as caught:
        said()
    assert caught.value.returncode == 2


def test_wrong_settings_that_are_of_no_single_queue(settings, configure):
    configure(orders={})
    settings.SRQ_ADMIN = {"TIMEOUT": "soon"}
    code, out, message = checked()
    assert (code, message) == (2, "Misconfigured: SRQ_QUEUES, SRQ_DEFAULTS or SRQ_ADMIN.")
    assert "Error: SRQ_ADMIN" in out


def test_check_as_a_process(project, configure, start):
    configure(orders={})
    queues["orders"].put(1)
    process = start("--check")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (3, "CommandError: 1 error found.\n")
    assert out.startswith("Error: orders is stuck")
    code, out, err = project.call("srq_status", "--check", "--watch")
    assert (code, out) == (2, "")
    assert "not allowed with argument" in err


# -- colours


def on_terminal(
    start, *arguments: str, until: str, ended_by: signal.Signals | None = None, code: int = 0, **options: object
) -> str:
    """The output of the command on a terminal up to a text; then a signal, and the rest of the output."""
    ours, theirs = pty.openpty()
    process = start(*arguments, stdout=theirs, **options)
    os.close(theirs)
    written = b""
    deadline = time.monotonic() + 60
    signalled = False
    try:
        while True:
            assert time.monotonic() < deadline, f"waited in vain for {until!r}: {written[-2000:]!r}"
            if select.select([ours], [], [], 1)[0]:
                try:
                    written += os.read(ours, 10_000)
                except OSError as error:
                    assert error.errno == errno.EIO, error  # noqa: PT017 (the other end is closed)
                    break
            if not signalled and ended_by and until in CODES.sub("", written.decode(errors="replace")):
                process.send_signal(ended_by)
                signalled = True
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (code, "")
        assert until in CODES.sub("", written.decode())
    finally:
        os.close(ours)
    return written.decode()


TERMINAL = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "environment", "coloured"),
    [([], {}, True), (["--no-color"], {}, False), ([], {"NO_COLOR": "1"}, False)],
)
def test_a_terminal_gets_colours_unless_the_user_forbids_them(configure, start, arguments, environment, coloured):
    configure(orders={}, mail={})
    queues["orders"].put(1)
    queues["mail"].pause()
    out = on_terminal(start, *arguments, until=" CST", environment={**TERMINAL, **environment})
    assert bool(CODES.search(out)) == coloured
    words = [line.partition(" ")[0] for line in CODES.sub("", out).splitlines()]
    assert (words[0], "Warning:" in words) == ("Error:", True)


def test_sentences_wrap_at_words_on_a_terminal(configure, start):
    alias = "a-rather-long-name-of-a-queue"
    configure(**{alias: {}})
    queues[alias].put(1)
    out = on_terminal(start, until=" CST", environment={**TERMINAL, "COLUMNS": "60", "NO_COLOR": "1"})
    lines = out.replace("\r", "").split("\nNote: ")[0].splitlines()
    assert lines == [
        f"Error: {alias} is stuck: 1 ready, and",
        "  no consumer was ever seen. Start one:",
        f"  manage.py srq_consume {alias}",  # a command stays whole
    ]


# -- with --watch

SWITCHED, RESTORED = "\x1b[?1049h\x1b[?25l\x1b[H", "\x1b[?25h\x1b[?1049l"
CLOCK = r"\d\d:\d\d:\d\d"


@pytest.mark.parametrize(
    ("ended_by", "code"), [(signal.SIGINT, 0), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.once)]
)
def test_watch_uses_the_alternate_screen_of_a_terminal_and_restores_the_other(configure, start, ended_by, code):
    configure(orders={})
    again = "\x1b[J\x1b[H\x1b[Kevery 0.05 s"
    out = on_terminal(start, "--watch=0.05", until=again, ended_by=ended_by, code=code, environment=TERMINAL)
    assert out.startswith(SWITCHED)
    assert out.endswith(RESTORED)
    assert (out.count(SWITCHED), out.count(RESTORED)) == (1, 1)
    first = CODES.sub("", out.removeprefix(SWITCHED)).split("\x1b[J\x1b[H")[0].replace("\x1b[K", "").split("\r\n")
    assert re.fullmatch(f"every 0.05 s · {CLOCK} · Ctrl-C ends", first[0])
    assert first[1] == "The queue orders is healthy."


def test_the_old_screen_is_back_after_an_error_too():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = StandardOutput(Terminal())
    with pytest.raises(ZeroDivisionError), screen.alternate_screen(out):
        raise ZeroDivisionError
    assert out.getvalue() == screen.ENTER + screen.LEAVE
    assert screen.LEAVE == RESTORED
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, screen.alternate_screen(out):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert out.getvalue().endswith(RESTORED)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.once
def test_watch_cuts_what_it_shows_to_the_height(configure, start):
    aliases = [f"queue{number}" for number in range(30)]
    configure(**{alias: {} for alias in aliases})
    for alias in aliases[20:]:
        queues[alias].put(1)
    environment = {**TERMINAL, "LINES": "14", "NO_COLOR": "1"}
    out = on_terminal(start, "--watch=0.05", until="more\x1b[H", ended_by=signal.SIGINT, environment=environment)
    frames = [
        frame.replace("\x1b[K", "").split("\r\n") for frame in re.split(r"\x1b\[H|\x1b\[J", out) if "every" in frame
    ]
    assert {len(frame) for frame in frames} == {14}
    head, *rest = frames[0]
    assert re.fullmatch(f"every 0.05 s · {CLOCK} · Ctrl-C ends", head)
    assert rest[0].startswith("Error: queue20 is stuck: 1 ready")
    assert rest[rest.index("") - 1] == "… 8 more"  # the seven other queues, and the note about the server
    table = rest[rest.index("") + 1 :]
    assert table[0].startswith("QUEUE")
    assert [row.split()[0] for row in table[1:-1]] == aliases[20 : 20 + len(table) - 2]  # the worst ones
    assert table[-1] == f"… {30 - (len(table) - 2)} more"


@pytest.mark.parametrize(
    ("height", "shown"),
    [
        (9, ["head", "a", "b", "b2", "", "T", "1", "2", "3"]),
        (11, ["head", "a", "b", "b2", "", "T", "1", "2", "3", "", "server"]),
        (10, ["head", "a", "b", "b2", "", "T", "1", "2", "3"]),
        (8, ["head", "a", "b", "b2", "", "T", "1", "… 2 more"]),
        (7, ["head", "a", "… 1 more", "", "T", "1", "… 2 more"]),
        (6, ["head", "a", "… 1 more", "", "T", "… 3 more"]),
        (4, ["head", "… 2 more", "", "… 4 more"]),
        (1, ["head"]),
    ],
)
def test_what_is_left_out_on_a_low_screen(height, shown):
    assert screen.fit("head", [["a"], ["b", "b2"]], ["T", "1", "2", "3"], ["server"], height) == shown


def test_of_a_long_finding_the_beginning_is_shown():
    shown = screen.fit("head", [["a"], ["b", "b2", "b3", "b4"], ["c"]], ["T", "1"], ["server"], 8)
    assert shown == ["head", "a", "b", "b2", "… 1 more", "", "T", "1"]
    assert screen.fit("head", [["a", "a2", "a3"]], ["T"], [], 5) == ["head", "a", "…", "", "T"]


def test_nothing_is_deleted_behind_a_line_that_may_fill_its_row():
    out = OutputWrapper(io.StringIO())
    screen.draw(out, ["a", "b"], 80, 2)
    screen.draw(out, ["c"], 80, 2)
    assert out.getvalue() == "\x1b[H\x1b[Ka\n\x1b[Kb" + "\x1b[H\x1b[Kc\n\x1b[J"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("abcd", "abcd"),
        ("abcdef", "abcd"),
        ("ab\x1b[31;1mcdef\x1b[0mgh", "ab\x1b[31;1mcd\x1b[0m"),
        ("abcdef\x1b[31;1mgh\x1b[0m", "abcd\x1b[31;1m\x1b[0m"),
    ],
)
def test_a_line_is_cut_to_the_width_without_its_colours(line, shown):
    out = OutputWrapper(io.StringIO())
    screen.draw(out, [line], 4, 1)
    assert out.getvalue() == f"\x1b[H\x1b[K{shown}"


@pytest.mark.once
def test_watch_on_a_terminal_without_control_codes_appends(configure, start):
    configure(orders={})
    again = "CST\r\n\r\nThe queue orders is healthy."
    out = on_terminal(
        start, "--watch=0.05", "--no-color", until=again, ended_by=signal.SIGINT, environment={"TERM": "dumb"}
    )
    assert "\x1b" not in out


def test_watch_goes_on_when_the_server_dies(configure, start):
    server = Server()
    try:
        configure(orders={"URL": server.url})
        process = start("--watch", "0.05", "--format", "jsonl")
        os.set_blocking(process.stdout.fileno(), False)

        def next_state(state: str) -> None:
            wait_for(lambda: any(f'"state": "{state}"' in line for line in process.stdout.readlines()), state)

        next_state("ok")
        server.kill()
        next_state("down")
        server.start()
        next_state("ok")
        process.send_signal(signal.SIGINT)
        wait_for(lambda: process.poll() is not None, "the end of the command")
        assert (process.returncode, process.stderr.read()) == (0, "")
    finally:
        server.close()


@pytest.mark.once
def test_watch_without_a_terminal_separates_tables_by_a_blank_line(configure, start):
    configure(orders={})
    process = start("--watch", "0.05", "orders")
    try:
        lines = [process.stdout.readline() for _ in range(30)]
    finally:
        process.send_signal(signal.SIGINT)
    ends = [number for number, line in enumerate(lines) if line.endswith(" CST\n")]
    assert len(ends) > 1
    for end in ends[:-1]:
        assert lines[end + 1 : end + 3] == ["\n", "The queue orders is healthy.\n"]
    assert process.wait(60) == 0


def test_the_columns_that_matter_least_are_left_out_when_the_terminal_is_narrow():
    row = [name.ljust(len(name) + 1) for name in srq_status.COLUMNS]
    kept = {
        width: [cell.strip() for cell in srq_status._fitting([row, row], width)[1]] for width in (None, 200, 80, 60, 1)
    }
    assert kept[None] == kept[200] == list(srq_status.COLUMNS)
    assert set(kept[200]) - set(kept[80]) == {"OUTLOOK", "DELAYED", "IN FLIGHT"}
    assert kept[60] == ["QUEUE", "STATE", "READY", "DEAD", "CONSUMERS", "IN/MIN", "OUT/MIN"]
    assert kept[1] == ["QUEUE", "STATE", "READY"]
