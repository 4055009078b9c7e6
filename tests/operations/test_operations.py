"""The operations and their Lua files: what they promise to each other and to the server."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path

import pytest
from redis.crc import key_slot

from django_srq import operations
from django_srq.operations import Call, Command, DeliveryRef, Keys, Put, Script, scripts
from django_srq.transport.link import Link
from django_srq.transport.slots import Slot

pytestmark = pytest.mark.versions

LUA = Path(str(resources.files("django_srq.operations"))) / "lua"
NAMES = sorted(path.stem for path in LUA.glob("*.lua"))
SHARED = sorted(path.stem for path in (LUA / "shared").glob("*.lua"))
SAFEREDISQUEUE = {"ackbuf", "backup", "backuplock", "ackbuf_aging"}  # keys that this package never creates

every_file = pytest.mark.parametrize("name", NAMES)


def source(name: str) -> str:
    return (LUA / f"{name}.lua").read_text("utf-8")


def header(name: str) -> str:
    """The comment at the beginning of the file."""
    lines = source(name).splitlines()[1:]
    return "\n".join(itertools.takewhile(lambda line: line.startswith("--"), lines))


def body(name: str) -> str:
    return source(name).removeprefix(source(name).splitlines()[0] + "\n" + header(name))


# -- the files


@every_file
def test_file_begins_with_a_shebang(name):
    assert re.fullmatch(r"#!lua( flags=(no-writes|allow-oom))?", source(name).splitlines()[0])


@every_file
def test_the_header_documents_the_purpose_and_the_reply(name):
    first, *rest = header(name).splitlines()
    assert re.fullmatch(r"-- [A-Z].*", first)
    assert any(line.startswith("-- Reply: ") for line in rest)
    assert rest[-1].startswith("-- include: keys")


@every_file
def test_header_documents_every_argument(name):
    """Documented and used arguments are the same; slot and seq are documented where they are read."""
    used = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", body(name))}
    loops = {int(number) for number in re.findall(r"(?:for i = (?=\d+, #ARGV)|flag_each\(|settle\()(\d+)", body(name))}
    documented = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", header(name))}
    repeated = {int(number) for number in re.findall(r"ARGV\[(\d+)…\]", header(name))}
    assert repeated == loops
    assert documented == {number for number in used if number < min(loops, default=number + 1)}


@every_file
def test_arguments_have_no_gap(name):
    first = 1 if "no-writes" in source(name) else 3
    numbers = sorted({int(number) for number in re.findall(r"ARGV\[(\d+)…?\]", header(name))})
    assert numbers == list(range(first, first + len(numbers)))


@pytest.mark.parametrize("name", [*NAMES, *(f"shared/{name}" for name in SHARED)])
def test_no_key_is_built_in_lua(name):
    text = source(name)
    assert "srq:" not in text
    assert "KEYS[" not in text
    accessed = set(re.findall(r"redis\.p?call\('[A-Z]+', ([^,)\s]+)", text))
    # Parameters of small functions: one of the keys, and the section of INFO.
    parameters = {"key", "hash", "list", "from", "section"}
    assert {word for word in accessed if not word.startswith("'")} <= {*operations.key_types(), *parameters}


@pytest.mark.parametrize("name", [*NAMES, *(f"shared/{name}" for name in SHARED)])
def test_no_command_walks_all_keys_or_a_whole_queue(name):
    assert not re.search(r"'(KEYS|SCAN|SMEMBERS|FLUSHALL|FLUSHDB|SORT)'", source(name))


@every_file
def test_every_script_that_writes_numbers_its_calls(name):
    """It includes the part that recognises a repeated call, and stores its outcome."""
    if Script.named(name).writes:
        assert re.search(r"^-- include: keys begin", source(name), re.MULTILINE)
        assert re.search(r"^if repeated\b", body(name), re.MULTILINE)
        assert "finish(" in body(name)
    else:
        assert source(name).splitlines()[0].endswith("no-writes")


@every_file
def test_the_sha_is_that_of_the_server(client, name):
    script = Script.named(name)
    assert client.script_load(script.text) == script.sha.decode()


def test_keys_are_declared_once_and_in_order():
    assert list(operations.key_types())[:2] == ["items", "queue"]
    assert list(operations.key_types())[-1] == "meta"
    declared = re.findall(r"^(?:local|     ) (\w+),? +-- ", (LUA / "shared" / "keys.lua").read_text(), re.MULTILINE)
    assert list(operations.key_types()) == declared
    assert set(operations.key_types().values()) == {"hash", "list", "zset", "string"}


@every_file
def test_a_script_has_exactly_the_functions_that_it_calls(name):
    text = Script.named(name).text.decode()
    names = re.findall(r"\blocal function (\w+)", text)
    assert [name for name in names if len(re.findall(rf"\b{name}\b", text)) == 1] == []
    assert ("ring" in names) == bool(re.search(r"\bring\(", text))


@every_file
def test_a_script_reads_exactly_the_fields_of_meta_that_it_uses(name):
    text = Script.named(name).text.decode()
    used = set(re.findall(r"\bfacts\.(\w+)", text))
    read = re.findall(r"redis\.call\('HMGET', meta, (.*)\)\nlocal facts = ", text)
    assert [set(re.findall(r"\w+", fields)) for fields in read] == ([used] if Script.named(name).writes else [])
    assert "FACTS" not in text


def test_claim_knows_the_leases_of_both_kinds_of_consumers():
    assert {"lease_c", "lease_g"} <= set(re.findall(r"\w+", Script.named("claim").text.decode()))
    assert "longest" not in Script.named("put").text.decode()


# -- keys


def test_names_of_keys():
    assert (str(Keys("orders")), Keys("orders")["items"]) == ("srq:orders", "srq:orders:items")
    assert (str(Keys("orders", cluster=True)), Keys("orders", True)["items"]) == ("srq:{orders}", "srq:{orders}:items")


def test_keys_of_one_queue_share_a_slot_of_a_cluster():
    keys = Keys("orders", cluster=True)
    assert len({key_slot(keys[key].encode()) for key in operations.key_types()}) == 1


# -- every operation, on a server

ARGUMENTS = {"lease": 60, "legacy_lease": 60}
KEPT = operations.kept(60, 100, b'{"s":"SUCCESSFUL","r":1}')
OPERATIONS: dict[str, Callable[[Keys], Call]] = {
    "put": lambda keys: operations.put(keys, [Put("own", b"x", b"")], own=True),
    "put generated": lambda keys: operations.put(keys, [Put("generated", b"x", b"")], own=False),
    "put delayed": lambda keys: operations.put(keys, [Put("late", b"x", b"")], own=True, due=60),
    "put urgent": lambda keys: operations.put(keys, [Put("urgent", b"x", b'{"priority":5}')], own=True, priority=5),
    "claim": lambda keys: operations.claim(keys, consumer="g1", **ARGUMENTS),
    "claim supervised": lambda keys: operations.claim(keys, consumer="c1", n=2, **ARGUMENTS),
    "ack": lambda keys: operations.ack(keys, [DeliveryRef("own")]),
    "ack with a result": lambda keys: operations.ack(keys, [DeliveryRef("own")], [KEPT]),
    "claim after a result": lambda keys: operations.claim(
        keys, consumer="c1", acks=[DeliveryRef("generated"), DeliveryRef("json")], results=[b"", KEPT], **ARGUMENTS
    ),
    "put of JSON": lambda keys: operations.put(keys, [Put("json", b'{"a": 1}', b"")], own=True),
    "put in place of a dead one": lambda keys: operations.put(
        keys, [Put("urgent", b"5", b"")], own=True, replaces_dead=True
    ),
    "cancel": lambda keys: operations.cancel(keys, "late", KEPT),
    "results": lambda keys: operations.results(keys, ["own", "generated", "json", "late", "urgent"]),
    "fail": lambda keys: operations.fail(keys, DeliveryRef("own"), error=b'{"type":"E","message":"m"}', delay=60),
    "bury": lambda keys: operations.fail(keys, DeliveryRef("urgent"), bury=True),
    "extend": lambda keys: operations.extend(
        keys, [DeliveryRef("own")], lease=60, consumer="c1", about=b'{"host":"h"}'
    ),
    "release": lambda keys: operations.release(keys, [DeliveryRef("own"), DeliveryRef("generated")]),
    "withdraw": lambda keys: operations.withdraw(keys, b"c1", 1),
    "crashed": lambda keys: operations.crashed(
        keys, [DeliveryRef("own", "c1/1")], evidence=b'{"type":"C","message":"m"}'
    ),
    "recover": lambda keys: operations.recover(keys, legacy_lease=60),
    "requeue": lambda keys: operations.requeue(keys, ["own", "urgent"]),
    "requeue dead": lambda keys: operations.requeue_dead(keys),
    "run now": lambda keys: operations.run_now(keys, ["own", "late"]),
    "run retrying": operations.run_retrying,
    "purge retrying": lambda keys: operations.purge_retrying(keys, error="E"),
    "count retrying": operations.count_retrying,
    "purge dead": lambda keys: operations.purge_dead(keys, error="Failed"),
    "count dead": lambda keys: operations.count_dead(keys),
    "drop": lambda keys: operations.drop(keys, [DeliveryRef("late")]),
    "purge": lambda keys: operations.purge(keys, marker="marker", start=True),
    "pause": lambda keys: operations.pause(keys, about={"by": "me"}),
    "resume": operations.resume,
    "register": lambda keys: operations.register(keys, "c1", b'{"host":"h"}'),
    "finished": lambda keys: operations.finished(keys, n=1),
    "finished before": lambda keys: operations.finished(keys, before=1e15),
    "purge results": lambda keys: operations.purge_results(keys, most=1),
    "uids": lambda keys: operations.uids(keys, "items", b"0", 10),
    "find": lambda keys: operations.find(keys, ["own"], deep=True),
    "counts": operations.counts,
    "list": lambda keys: operations.list_items(keys, "ready"),
    "list after": lambda keys: operations.list_items(keys, "dead", anchor="a1 urgent", newest=True),
    "groups": operations.dead_groups,
    "retry groups": operations.retry_groups,
    "wrong groups": operations.wrong_groups,
    "show": lambda keys: operations.show(keys, "own", largest=10),
}


def test_all_files_are_covered_by_these_cases():
    assert {make(Keys("q")).script.name for make in OPERATIONS.values()} == set(NAMES)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("ack", [False]),
        ("ack with a result", [False]),
        ("cancel", False),
        ("results", [None] * 5),
        ("finished", operations.FinishedPage(0, [], None)),
        ("purge results", (0, 0)),
        ("fail", None),
        ("extend", [False]),
        ("release", [False, False]),
        ("withdraw", None),
        ("crashed", operations.CrashReply([None], {})),
        ("recover", (0, 0)),
        ("requeue", [False, False]),
        ("requeue dead", (0, "")),
        ("run now", [False, False]),
        ("run retrying", (0, "")),
        ("purge retrying", (0, "")),
        ("count retrying", ({}, "")),
        ("retry groups", []),
        ("wrong groups", []),
        ("purge dead", (0, "")),
        ("count dead", ({}, "")),
        ("drop", [False]),
        ("purge", (False, 0)),
        ("pause", True),
        ("resume", False),
        ("find", [set()]),
    ],
)
def test_each_operation_works_on_a_queue_that_was_never_used(link, prefix, name, answer):
    assert link.call(OPERATIONS[name](Keys(prefix)), queue=prefix) == answer


def test_a_claim_works_on_a_queue_that_was_never_used(link, prefix):
    reply = link.call(OPERATIONS["claim"](Keys(prefix)), queue=prefix)
    assert (reply.acked, reply.wait, reply.found) == ([], None, [])


def test_counts_of_a_queue_that_was_never_used(link, prefix):
    counts = link.call(operations.counts(Keys(prefix)), queue=prefix)
    assert (counts.ready, counts.in_flight, counts.delayed, counts.dead, counts.layout) == (0, 0, 0, 0, None)
    assert (counts.paused, counts.oldest, counts.stats, counts.consumers) == (None, None, {}, {})


@pytest.mark.once
@pytest.mark.parametrize("first", OPERATIONS)
def test_operations_work_in_any_order(make_queue, first):
    """Each operation before and after this one, then all of them from several beginnings; the queue stays sound."""
    queue, names = make_queue(), list(OPERATIONS)
    pairs = [name for other in names for name in (first, other)]
    rounds = [(first, *names[start:], *names[:start]) for start in range(0, len(names), 4)]
    for turn in (pairs, *rounds, pairs):
        for name in turn:
            queue.link.call(OPERATIONS[name](queue.keys), queue=queue.alias)
        assert queue.audit() == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_repeated_call_is_carried_out_once_and_gets_the_same_answer(link, prefix, make_queue, name):
    queue = make_queue()
    for other in ("put urgent", "put", "put generated", "put delayed", "claim supervised"):
        link.call(OPERATIONS[other](queue.keys), queue=prefix)
    call, slot = OPERATIONS[name](queue.keys), Slot(b"test", 7)
    first = link.call(call, queue=prefix, slot=slot)
    once = queue.snapshot()
    again = link.call(call, queue=prefix, slot=slot)
    twice = queue.snapshot()
    if name not in ("counts", "list", "list after"):  # these replies contain the time
        assert again == first
    assert (twice.stats, queue.counts()) == (once.stats, {state: getattr(once, state) for state in operations.STATES})
    assert queue.audit() == []


# -- types


def test_every_key_has_the_type_that_it_is_declared_with(client, link, make_queue):
    queue = make_queue(autoclean_interval=60, max_crashes=5)
    for name in OPERATIONS:
        link.call(OPERATIONS[name](queue.keys), queue=queue.alias)
    found: dict[str, str] = {}

    def look():
        for key in operations.key_types():
            kind = client.type(queue.keys[key]).decode()
            if kind != "none":
                found[key] = kind

    look()
    queue.resume()
    queue.put_many("abcdef")
    queue.put("x", priority=3)
    queue.put("x", delay=60)
    queue.put("x", uid="own", unique_for=60)
    look()
    queue.pause()
    look()
    queue.resume()
    items = queue.get_many(5)
    crash = [DeliveryRef(items[1].uid, items[1].token)]
    evidence = b'{"type":"C","message":"m"}'
    queue.fail(items[0], "error", delay=60)
    link.call(operations.crashed(queue.keys, crash, evidence=evidence), queue=queue.alias)
    link.call(operations.fail(queue.keys, DeliveryRef(items[2].uid), bury=True), queue=queue.alias)
    queue.release(items[3])
    look()
    link.call(operations.ack(queue.keys, [DeliveryRef(items[4].uid)], [KEPT]), queue=queue.alias)
    look()
    assert set(found) == set(operations.key_types()) - SAFEREDISQUEUE
    assert found == {key: operations.key_types()[key] for key in found}


# -- the wire protocol


def parsed(data: bytes) -> list[bytes]:
    """The arguments of a packed command; fails when the data are not exactly one command."""
    head, _, rest = data.partition(b"\r\n")
    assert head[:1] == b"*"
    args = []
    for _ in range(int(head[1:])):
        size, _, rest = rest.partition(b"\r\n")
        assert size[:1] == b"$"
        length = int(size[1:])
        assert rest[length : length + 2] == b"\r\n"
        args.append(rest[:length])
        rest = rest[length + 2 :]
    assert rest == b""
    return args


KEYS = Keys("naïve orders")


@pytest.mark.parametrize("name", OPERATIONS)
def test_packed_call_is_one_command(name):
    call = OPERATIONS[name](KEYS)
    command, sha, number, *rest = parsed(call.pack(b"slot", 42))
    keys = [KEYS[key].encode() for key in operations.key_types()]
    expected = b"EVALSHA" if call.script.writes else b"EVALSHA_RO"
    assert (command, sha, number) == (expected, call.script.sha, b"%d" % len(keys))
    assert rest[: len(keys)] == keys
    assert rest[len(keys) :] == [*([b"slot", b"42"] if call.script.writes else []), *call.args]


@pytest.mark.parametrize(
    ("call", "command"), [(operations.resume(KEYS), b"EVAL"), (operations.counts(KEYS), b"EVAL_RO")]
)
def test_a_call_can_carry_the_whole_script(call, command):
    short, whole = parsed(call.pack(b"slot", 1)), parsed(call.pack(b"slot", 1, whole=True))
    assert whole[:2] == [command, call.script.text]
    assert whole[2:] == short[2:]


def test_a_script_that_only_reads_can_be_sent_like_all_others():
    call = operations.counts(KEYS)
    for whole, command in ((False, b"EVALSHA"), (True, b"EVAL")):
        own, like_others = (parsed(call.pack(b"", 0, whole=whole, read_only=way)) for way in (True, False))
        assert (like_others[0], like_others[1:]) == (command, own[1:])


@pytest.mark.parametrize("payload", [b"", b"\r\n$3\r\n*1\r\n", bytes(range(256)), "Ž".encode() * 1000])
def test_payload_may_be_any_bytes(payload):
    call = operations.put(KEYS, [Put("uid", payload, b"")], own=False)
    assert parsed(call.pack(b"slot", 1))[-2:] == [payload, b""]


def test_plain_command_is_packed_the_same_way():
    assert parsed(operations.wait([KEYS, Keys("b")], 1.5).pack()) == [
        b"BLPOP",
        KEYS["wake"].encode(),
        b"srq:b:wake",
        b"1.500",
    ]
    assert parsed(operations.ring(KEYS).pack()) == [b"RPUSH", KEYS["wake"].encode(), b"1"]


def test_a_wait_of_no_time_does_not_become_endless():
    assert parsed(operations.wait([KEYS], 0).pack())[-1] == b"0.001"


def test_info_reads_the_servers_account(link: Link):
    info: Command = operations.info()
    assert "run_id" in link.call(info, queue="q")


# -- arguments


@pytest.mark.parametrize(("seconds", "expected"), [(0, 0), (-1, 0), (1.5, 1500), (0.0001, 1), (0.0016, 2)])
def test_milliseconds(seconds, expected):
    assert operations.milliseconds(seconds) == expected


@pytest.mark.parametrize(
    ("headers", "priority", "encoded"),
    [
        (None, 0, b""),
        ({}, 0, b""),
        (None, -3, b'{"priority": -3}'),
        ({"ž": "1"}, 0, '{"headers": {"ž": "1"}}'.encode()),
    ],
)
def test_headers_cost_nothing_when_there_are_none(headers, priority, encoded):
    assert operations.encode_headers(headers, priority=priority) == encoded


def code_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("--")]


@pytest.mark.parametrize("name", scripts.names())
def test_the_text_of_a_script_is_the_one_that_the_server_gets(name):
    explained = scripts.explained(name)
    assert code_of(explained) == code_of(Script.named(name).text.decode())
    assert explained.count("\n--") > 2  # it keeps its comments


def test_a_command_prints_a_script():
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    assert run([sys.executable, "-m", "django_srq.operations", "claim"]).stdout == scripts.explained("claim")
    assert run([sys.executable, "-m", "django_srq.operations"]).stdout.split() == scripts.names()
    wrong = run([sys.executable, "-m", "django_srq.operations", "clam"])
    assert wrong.returncode == 2
    assert "claim" in wrong.stderr
