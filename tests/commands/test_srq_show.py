"""srq_show: items and their errors in the shell."""

from __future__ import annotations

import io
import json
import re

import pytest
from django.core.management import call_command

from django_srq import queues
from django_srq.management.items import cut
from tests.support.project import ROOT
from tests.support.server_clock import pass_time

pytestmark = pytest.mark.versions


@pytest.fixture
def project(project, server_url, prefix, dead_port):
    project.configure(
        {
            "orders": {},
            "raw": {"SERIALIZER": "raw"},
            "pickled": {"SERIALIZER": "pickle"},
            "far": {"URL": f"redis://:secret@127.0.0.1:{dead_port}/0", "TIMEOUT": 0.3},
        },
        {"URL": server_url, "PREFIX": prefix + ".{alias}", "MAX_DELIVERIES": 1},
    )
    return project


def declined(amount: int, text: str = "declined") -> Exception:
    """An error with a traceback."""
    try:
        raise LookupError(f"{text} {amount}")
    except LookupError as error:
        return error


def die(alias: str, payload: object, error: Exception | str, **options: object) -> str:
    queue = queues[alias]
    uid = queue.put(payload, priority=100, **options)
    item = queue.get(-1)
    assert item.uid == uid
    assert queue.fail(item, error) == "dead"
    return uid


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch, columns: int, *arguments: str) -> list[str]:
    """The lines on a terminal of so many columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Screen()
    call_command("srq_show", *arguments, stdout=screen, stderr=io.StringIO(), no_color=True)
    return screen.getvalue().splitlines()


# -- a list


def test_dead_items_are_listed_newest_first(project):
    first = die("orders", {"order": 1}, declined(1))
    queues["orders"].put("ready")
    last = die("orders", {"order": 2}, "no stock")
    code, out, err = project.call("srq_show", "orders")
    assert (code, err) == (0, "")
    head, *rows = (line.split(None, 4) for line in out.splitlines())
    assert head == ["UID", "STATE", "TIME", "ERROR", "OR PAYLOAD"]
    assert [(row[0], row[1]) for row in rows] == [(last, "dead"), (first, "dead")]
    assert out.splitlines()[1].endswith("ago  Failed: no stock")
    assert out.splitlines()[2].endswith("ago  LookupError: declined 1")


@pytest.mark.parametrize("state", ["ready", "in_flight", "delayed"])
def test_items_of_a_state_are_listed_with_their_payloads(project, state):
    queue = queues["orders"]
    uids = [queue.put({"order": n, "password": "hidden"}, delay=1000 * (state == "delayed")) for n in (1, 2)]
    if state == "in_flight":
        queue.get_many(2)
    code, out, err = project.call("srq_show", "orders", "--state", state)
    assert (code, err) == (0, "")
    times = {"ready": r"\d+ s ago", "in_flight": r"\d+ s ago", "delayed": "in 16 min"}
    for n, (line, uid) in enumerate(zip(out.splitlines()[1:], uids, strict=True), 1):
        assert re.fullmatch(
            rf'{uid}  {state.replace("_", " ")}  {times[state]}  {{"order": {n}, "password": "\[…\]"}}', line
        )


def test_a_delayed_item_whose_time_has_come_is_due(project, client):
    queue = queues["orders"]
    queue.put("x", delay=100)
    pass_time(client, queue.keys, 101)
    code, out, err = project.call("srq_show", "orders", "--state", "delayed")
    assert (code, err) == (0, "")
    assert re.fullmatch(r'\S+  delayed  due   "x"', out.splitlines()[1])


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_a_line_fits_the_terminal(project, monkeypatch, columns):
    die("orders", "x", declined(1, "a very long message, longer than any terminal " * 5))
    die("orders", "x", declined(2, "\u65e5\u672c\u8a9e" * 50))
    lines = shown(monkeypatch, columns, "orders")
    assert len(lines) == 3
    wide = lines[1].count("\u65e5") + lines[1].count("\u672c") + lines[1].count("\u8a9e")
    assert columns - 1 <= len(lines[1]) + wide <= columns
    assert len(lines[2]) == columns
    assert "LookupError: " in lines[1]
    assert ("STATE" in lines[0], "TIME" in lines[0]) == (True, columns > 60)
    assert lines[2].endswith("…")


def test_cut():
    assert [cut("abc", width) for width in (1, 2, 3, 4)] == ["…", "a…", "abc", "abc"]
    assert [cut("\u65e5\u672c", width) for width in (2, 3, 4)] == ["…", "\u65e5…", "\u65e5\u672c"]


def test_items_are_chosen_by_their_error(project):
    chosen = [die("orders", n, declined(n)) for n in (1, 2)]
    other = die("orders", 3, "no stock")
    (group,) = queues["orders"].count_dead(error="LookupError")
    for name, uids in {"LookupError": chosen, group: chosen, "Failed": [other]}.items():
        code, out, err = project.call("srq_show", "orders", "--error", name, "--format", "json")
        assert (code, err) == (0, "")
        assert [item["uid"] for item in json.loads(out)] == uids[::-1]
    code, out, err = project.call("srq_show", "orders", "--error", "KeyErr")
    assert (code, out) == (0, "")
    assert err.splitlines() == [
        "orders: no dead or retrying item has the error 'KeyErr'. These are there:",
        f"orders: 2 {group}",
        "orders: 1 Failed: no stock",
    ]


def test_retrying_items_follow_the_dead_ones(project, settings):
    settings.SRQ_DEFAULTS = {**settings.SRQ_DEFAULTS, "MAX_DELIVERIES": 10}
    queue = queues["orders"]
    scheduled = queue.put("scheduled", delay=100)
    retrying = [queue.put(n, uid=f"r{n}") for n in (1, 2, 3)]
    for n, item in enumerate(queue.get_many(3)):
        assert queue.fail(item, declined(n, "down") if n else "no stock", delay=500 + n) == "delayed"
    queue.put("dead", uid="dead")
    for _ in range(10):
        queue.fail(queue.get(-1), "worn out", delay=0)
    assert queue.states("dead", scheduled) == ["dead", "delayed"]

    def uids(*arguments: str) -> list[str]:
        code, out, err = project.call("srq_show", "orders", *arguments, "--format", "json")
        assert (code, err) == (0, "")
        return [f"{item['uid']} {item['state']} {item['retrying']}" for item in json.loads(out)]

    told = [f"{uid} delayed True" for uid in retrying]
    assert uids() == ["dead dead False", *told]
    assert uids("--limit", "2") == ["dead dead False", *told[:1]]
    assert uids("--state", "retrying") == told
    assert uids("--state", "dead") == ["dead dead False"]
    assert uids("--state", "delayed") == [f"{scheduled} delayed False", *told]
    assert uids("--error", "LookupError") == uids("--error", "LookupError", "--state", "retrying") == told[1:]
    code, out, err = project.call("srq_show", "orders")
    states = [line.split()[1] for line in out.splitlines()[1:]]
    assert (code, err, states) == (0, "", ["dead", "retrying", "retrying", "retrying"])
    assert out.splitlines()[2].endswith("in 8 min  Failed: no stock")
    code, out, err = project.call("srq_show", "orders", "--state", "retrying", "--error", "worn")
    assert err.splitlines()[0] == "orders: no retrying item has the error 'worn'. These are there:"
    assert sorted(line.split()[2] for line in err.splitlines()[1:]) == ["Failed:", "LookupError"]


def test_the_last_five_errors_are_shown_with_two_tracebacks(project, settings):
    settings.SRQ_DEFAULTS = {**settings.SRQ_DEFAULTS, "MAX_DELIVERIES": 10}
    queue = queues["orders"]
    uid = queue.put("x")
    for n in range(1, 7):
        queue.fail(queue.get(-1), declined(n), delay=0 if n < 6 else 1000)
    code, out, err = project.call("srq_show", "orders", uid)
    assert (code, err) == (0, "")
    assert re.findall(r"^error (\d of \d), delivery (\d), ", out, re.MULTILINE) == [
        (f"{n} of 5", f"{7 - n}") for n in range(1, 6)
    ]
    assert out.count("Traceback") == 2
    assert re.findall(r"^  LookupError: declined (\d)$", out, re.MULTILINE) == ["6", "5", "4", "3", "2"]
    (item,) = json.loads(project.call("srq_show", "orders", uid, "--format", "json")[1])
    assert [error["message"] for error in item["errors"]] == [f"declined {n}" for n in (6, 5, 4, 3, 2)]
    assert [error["traceback"] is None for error in item["errors"]] == [False, False, True, True, True]
    assert json.loads(project.call("srq_show", "orders", "--format", "json")[1]) == [item]


def test_a_long_list_is_cut_and_says_so(project):
    queues["orders"].put_many(range(250))
    code, out, err = project.call("srq_show", "orders", "--state", "ready")
    assert (code, len(out.splitlines()), err) == (0, 21, "orders: 20 of 250 ready items; --limit shows more\n")
    code, out, err = project.call("srq_show", "orders", "--state", "ready", "--limit", "230", "--format", "json")
    assert (code, err) == (0, "")
    assert [item["payload"] for item in json.loads(out)] == list(range(230))
    code, out, err = project.call("srq_show", "orders", "--state", "ready", "--limit", "250")
    assert (code, len(out.splitlines()), err) == (0, 251, "")


def test_an_empty_list_says_where_items_are(project):
    assert project.call("srq_show", "orders") == (0, "", "orders: no item is dead or retrying\n")
    queues["orders"].put("x")
    queues["orders"].put("x", delay=1000)
    says = "orders: no item is dead or retrying; there are 1 ready, 1 delayed (--state)\n"
    assert project.call("srq_show", "orders") == (0, "", says)
    assert project.call("srq_show", "orders", "--format", "json") == (0, "[]\n", says)


# -- single items


def test_an_item_is_shown_whole(project, settings):
    settings.USE_TZ, settings.TIME_ZONE = True, "Europe/Berlin"
    uid = die(
        "orders", {"order": 17, "password": "hidden"}, declined(17, "token=abc"), headers={"tenant": "a", "token": "t"}
    )
    code, out, err = project.call("srq_show", "orders", uid)
    assert (code, err) == (0, "")
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+0[12]:00"
    pattern = [
        f"uid         {uid}",
        "queue       orders",
        f"state       dead since {moment}",
        f"put         {moment}",
        "deliveries  1",
        "priority    100",
        "header      tenant: a",
        r"header      token: \[…\]",
        r"payload     \d+\xa0bytes",
        "  {",
        '    "order": 17,',
        r'    "password": "\[…\]"',
        "  }",
        "",
        f"error 1 of 1, delivery 1, {moment}",
        r"  Traceback \(most recent call last\):",
        r'    File ".*test_srq_show\.py", line \d+, in declined',
        "      raise LookupError.*",
        r"  LookupError: token=\[…\] 17",
    ]
    lines = [line for line in out.splitlines() if not re.fullmatch(r" +[~^]+", line)]
    assert len(lines) == len(pattern), out
    for line, expected in zip(lines, pattern, strict=True):
        assert re.fullmatch(expected, line), (line, expected)
    others = [project.call("srq_show", "orders", *more)[1] for more in ([], ["--format", "json"])]
    assert [secret for secret in ("hidden", "abc") for text in (out, *others) if secret in text] == []


def test_items_in_other_states_are_shown(project):
    queue = queues["orders"]
    held, ready, later = (
        queue.put("a", uid="held"),
        queue.put("b", uid="ready"),
        queue.put("c", delay=1000, uid="later"),
    )
    queue.get(-1)
    code, out, err = project.call("srq_show", "orders", held, ready, later, held)
    assert (code, err) == (0, "")
    first, second, third = out.split("\n\n")
    assert re.search(
        r"state       in flight\nput .*\nconsumer    \S+ since .*\nlease until 20.*\ndeliveries  1\n", first
    )
    assert re.search(
        r"state       ready\nput .*\nahead       0 items\ndeliveries  0\npayload     3.bytes\n  \"b\"$", second
    )
    assert re.search(r"state       delayed\nput .*\ndue         20.*\ndeliveries  0\n", third)


def test_an_unknown_uid_is_named_and_the_others_are_shown(project):
    queues["orders"].put("x", uid="there")
    code, out, err = project.call("srq_show", "orders", "gone", "there", "--format", "json")
    assert (code, [item["uid"] for item in json.loads(out)]) == (1, ["there"])
    assert err == "CommandError: orders: no item 'gone': it was handled or deleted, or was never put\n"


def test_no_text_controls_the_terminal(project):
    evil = "\x1b]0;title\x07\x9b2J\u202e\r"
    uid = die("orders", evil, declined(1, evil), headers={"h": evil})
    raw = die("raw", f"text{evil}\nmore".encode(), evil)
    for arguments in (["orders"], ["orders", uid], ["raw"], ["raw", raw]):
        code, out, err = project.call("srq_show", *arguments)
        assert (code, err) == (0, "")
        assert [char for char in out if not (char.isprintable() or char in "\n\xa0")] == []
    assert "\\x1b]0;title\\x07\\x9b2J\\u202e" in project.call("srq_show", "orders", uid)[1]
    assert "\\x1b]0;title" in project.call("srq_show", "orders")[1]


def test_payloads_that_cannot_be_shown_say_so(project):
    pickled, raw = queues["pickled"].put({"a": 1}, uid="p"), queues["raw"].put(b"\x00\xff", uid="r")
    (item,) = json.loads(project.call("srq_show", "pickled", pickled, "--format", "json")[1])
    assert (item["payload"], "not displayed" in item["payload_note"]) == (None, True)
    assert "Pickled payloads are not displayed" in project.call("srq_show", "pickled", pickled)[1]
    assert "  000000  00 ff " in project.call("srq_show", "raw", raw)[1]
    assert queues["raw"].put(b"plain text", uid="t")
    (item,) = json.loads(project.call("srq_show", "raw", "t", "--format", "json")[1])
    assert (item["payload"], item["payload_note"]) == ("plain text", None)


def test_the_json_has_the_fields_of_the_reference(project):
    uid = die("orders", {"order": 17, "token": "hidden"}, declined(17), headers={"tenant": "a"})
    _, out, _ = project.call("srq_show", "orders", uid, "--format", "json")
    (item,) = json.loads(out)
    (error,) = item.pop("errors")
    assert list(error) == ["type", "message", "time", "delivery", "consumer", "traceback", "started"]
    assert (error["type"], error["message"], error["delivery"], error["consumer"]) == (
        "LookupError",
        "declined 17",
        1,
        None,
    )
    assert "raise LookupError" in error["traceback"]
    moments = {name: item.pop(name) for name in ("put", "dead_since")}
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment) for moment in moments.values())
    assert item == {
        "queue": "orders",
        "uid": uid,
        "state": "dead",
        "retrying": False,
        "due": None,
        "lease_until": None,
        "deliveries": 1,
        "crashes": 0,
        "priority": 100,
        "consumer": None,
        "claimed": None,
        "headers": {"tenant": "a"},
        "size": 29,
        "payload": {"order": 17, "token": "[…]"},
        "payload_note": None,
        "task": None,
        "status": None,
        "finished": None,
        "return_value": None,
    }
    page = (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8")
    table = page.partition("### Fields of an item\n")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", table, re.MULTILINE)
    assert {name for cell in documented for name in re.findall(r"\w+", cell)} == {*item, *moments, "errors"}
    assert set(error) <= set(re.findall(r"`(\w+)`", table.partition("`errors`")[2]))
    listed = json.loads(project.call("srq_show", "orders", "--format", "json")[1])
    assert listed == json.loads(out)


# -- wrong use


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nope"], 2, "Unknown queue 'nope'. Known: "),
        (["orders", "uid", "--state", "dead"], 2, "Give uids, or --state, --error and --limit, but not both."),
        (["orders", "uid", "--limit", "3"], 2, "Give uids, or --state"),
        (["orders", "--state", "ready", "--error", "x"], 2, "--error needs --state dead or retrying, or no --state."),
        (["orders", "--state", "gone"], 2, "invalid choice: 'gone'"),
        (["orders", "--limit", "0"], 2, "a whole number above 0, not '0'"),
        (["orders", "no uid"], 1, "'no uid'"),
        (["orders", "\udcff"], 1, "queue 'orders'"),
        (["far"], 69, "queue 'far'"),
        (["far", "uid"], 69, "queue 'far'"),
    ],
)
def test_wrong_use_is_explained(project, arguments, code, says):
    given, out, err = project.call("srq_show", *arguments)
    assert (given, out) == (code, "")
    assert says in err
    assert "secret" not in err
