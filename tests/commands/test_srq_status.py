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

from django_srq import queues
from django_srq.management.commands import srq_status
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
        text = f"from tests.settings import *\nSRQ_QUEUES = {settings.SRQ_QUEUES!r}\n"
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
    assert lines[0].startswith("orders is stuck: 1234 ready, and no consumer was ever seen. Start one: manage.py")
    assert lines[1].startswith("bills has 1 dead item")
    while not lines[0].startswith("QUEUE"):
        del lines[0]
    head, *rows = lines[:4]
    assert head.split("  ")[0] == "QUEUE"
    assert {len(line) for line in (head, *rows)} == {len(head)}
    for row, alias, state, ready in zip(
        rows, ("orders", "mail", "bills"), ("stuck", "ok", "failing"), (1234, 0, 1), strict=True
    ):
        assert row.split()[:2] == [alias, state]
        assert row[: head.index("READY") + len("READY")].endswith(f" {ready}")
    assert re.fullmatch(r"[\w.:/]+: (valkey|redis) [\d.]+, memory [\d.]+\s.B, read in [\d.]+ ms", lines[5])
    assert lines[6].endswith(" UTC")


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
    assert (process.returncode, err) == (0, "")
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


def test_exit_codes_and_streams(configure, start, dead_port):
    address = f"127.0.0.1:{dead_port}"
    configure(orders={}, mail={"URL": f"redis://:secret@{address}/0"})
    process = start()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 69
    assert f"The server {address}/0 is down" in out
    assert re.search(r"^orders +ok +0 ", out, re.MULTILINE)
    assert err == f"CommandError: Cannot be reached: {address}/0.\n"
    assert "secret" not in out

    process = start("orders", "--format", "jsonl")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err, json.loads(out)["queue"]) == (0, "", "orders")

    process = start("emial")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)


# -- colours


def on_terminal(start, *arguments: str, until: str, **options: object) -> str:
    """The output of the command on a terminal up to a text; then Ctrl-C ends it, with exit code 0."""
    ours, theirs = pty.openpty()
    process = start(*arguments, stdout=theirs, **options)
    os.close(theirs)
    written = b""
    deadline = time.monotonic() + 60
    try:
        while until not in CODES.sub("", written.decode(errors="replace")):
            assert time.monotonic() < deadline, f"waited in vain for {until!r}: {written!r}"
            if select.select([ours], [], [], 1)[0]:
                try:
                    written += os.read(ours, 10_000)
                except OSError as error:
                    assert error.errno == errno.EIO, error  # noqa: PT017 (the other end is closed)
                    break
        if process.poll() is None and "--watch" in " ".join(arguments):
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    finally:
        os.close(ours)
    return written.decode()


@pytest.mark.parametrize(
    ("arguments", "environment", "coloured"),
    [([], {}, True), (["--no-color"], {}, False), ([], {"NO_COLOR": "1"}, False)],
)
def test_a_terminal_gets_colours_unless_the_user_forbids_them(configure, start, arguments, environment, coloured):
    configure(orders={})
    out = on_terminal(start, *arguments, until=" UTC", environment={"TERM": "xterm", **environment})
    assert "The queue orders is healthy." in out
    assert bool(CODES.search(out)) == coloured


# -- with --watch


def test_watch_redraws_a_terminal(configure, start):
    configure(orders={})
    out = on_terminal(start, "--watch=0.05", until=" UTC\x1b[K\r\n\x1b[J\x1b[HThe queue orders is healthy.")
    assert out.startswith("\x1b[H")


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


def test_watch_without_a_terminal_separates_tables_by_a_blank_line(configure, start):
    configure(orders={})
    process = start("--watch", "0.05", "orders")
    try:
        lines = [process.stdout.readline() for _ in range(30)]
    finally:
        process.send_signal(signal.SIGINT)
    ends = [number for number, line in enumerate(lines) if line.endswith(" UTC\n")]
    assert len(ends) > 1
    for end in ends[:-1]:
        assert lines[end + 1 : end + 3] == ["\n", "The queue orders is healthy.\n"]
    assert process.wait(60) == 0


@pytest.mark.parametrize(("width", "kept"), [(None, 4), (80, 4), (20, 4), (19, 3), (1, 3)])
def test_the_last_columns_are_left_out_when_the_terminal_is_narrow(width, kept):
    row = ["abcd", "abcd", "abc", "abc"]  # 20 characters, with the gaps
    assert srq_status._fitting([row, row], width) == [row[:kept]] * 2
