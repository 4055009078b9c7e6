"""Users of the server with few rights.

The lists in docs/reference/rights.md are sufficient, and errors name a missing right.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from django.core.management import call_command

from django_srq import SafeRedisQueue, operations, queues, status
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable
from django_srq.operations import DeliveryRef, Script
from tests.operations.test_operations import NAMES, OPERATIONS
from tests.support.servers import Server
from tests.support.waiting import PATIENT, wait_for

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reference" / "rights.md").read_text("utf-8")
READING = {name for name in NAMES if not Script.named(name).writes}
SERVING = {"claim", "ack", "fail", "extend", "release", "crashed", "register", "withdraw"}
# For each role, the scripts that it runs and the other commands that it sends.
ROLES = {
    "producer": ({"put"}, set()),
    "tasks": ({"put", "results", "cancel"}, set()),
    "consumer": (SERVING, {"BLPOP", "LMPOP", "RPUSH"}),
    "viewer": (READING - {"uids"}, {"INFO", "ZCOUNT"}),  # ZCOUNT for audit()
    "operator": (set(NAMES) - SERVING - {"put"} | {"release"}, {"INFO", "ZCOUNT"}),
    "everything": (set(NAMES), {"BLPOP", "LMPOP", "RPUSH", "INFO", "ZCOUNT", "HSCAN", "ZSCAN", "LRANGE"}),
}
PASSWORD = "pw"

MakeUser = Callable[..., str]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    with server.client() as client:
        client.flushall()
        client.acl_log_reset()
        yield client


_numbers = itertools.count()


@pytest.fixture
def user(server: Server, client: redis.Redis) -> MakeUser:
    """Makes a user with these rules and a name of its own; returns the URL with that user."""

    def user(*rules: str) -> str:
        name = f"user{next(_numbers)}"
        grant(client, name, "on", f">{PASSWORD}", *rules)
        return server.url.replace("://", f"://{name}:{PASSWORD}@")

    return user


@pytest.fixture
def connect(user: MakeUser) -> Iterator[Callable[..., SafeRedisQueue]]:
    """Makes queues named "rights" whose connections belong to a user with these rules."""
    made: list[SafeRedisQueue] = []

    def connect(*rules: str, **options: object) -> SafeRedisQueue:
        made.append(SafeRedisQueue(name="rights", url=user(*rules), timeout=PATIENT, **options))
        return made[-1]

    yield connect
    for queue in made:
        queue.link.close()


@pytest.fixture
def queue(server: Server, client: redis.Redis) -> Iterator[SafeRedisQueue]:
    """The same queue, for a user who may do everything."""
    queue = SafeRedisQueue(name="rights", url=server.url, timeout=PATIENT)
    yield queue
    queue.link.close()


def grant(client: redis.Redis, name: str, *rules: str) -> None:
    client.execute_command("ACL", "SETUSER", name, *rules)


def refused(client: redis.Redis) -> list[tuple[str, str]]:
    """The refusals of the server, as in its ACL log."""
    return [(entry["reason"], entry["object"]) for entry in client.acl_log()]


def commands_of(role: str) -> set[str]:
    """The commands that a role needs, according to its scripts."""
    scripts, plain = ROLES[role]
    texts = [Script.named(name).text.decode() for name in scripts]
    called = {command for text in texts for command in re.findall(r"\bredis\.p?call\('([A-Z]+)'", text)}
    evaluating = {f"EVAL{sha}{'' if name not in READING else '_RO'}" for name in scripts for sha in ("", "SHA")}
    return called | plain | evaluating


def rules_of(role: str) -> list[str]:
    """The rules for a role, as in docs/reference/rights.md."""
    (line,) = re.findall(rf"^ACL SETUSER srq-{role} (.*)$", DOCUMENT, re.MULTILINE)
    return [rule for rule in line.split() if rule != "on" and rule[0] != ">"]


def with_greeting(client: redis.Redis, rules: list[str]) -> list[str]:
    """The rules with the commands that redis-py sends first, as far as the server knows them."""
    known = b"client|setinfo" in client.execute_command("ACL", "CAT", "connection")
    return [*rules, "+client|setinfo"] if known else rules


# -- the document


@pytest.mark.parametrize("role", ROLES)
def test_the_document_lists_the_commands_of_the_scripts(role):
    rules = rules_of(role)
    assert {rule[1:].upper() for rule in rules if rule[0] == "+"} == commands_of(role)
    assert [rule for rule in rules if rule[0] != "+"] == ["%R~srq:*" if role == "viewer" else "~srq:*", "-@all"]


def test_consumer_may_put_too():
    assert commands_of("producer") < commands_of("consumer")


def test_tasks_need_the_rights_of_a_producer_and_those_to_read():
    assert commands_of("tasks") - commands_of("producer") == {"EVALSHA_RO", "EVAL_RO"}


def test_every_script_has_a_role():
    assert set.union(*(scripts for role, (scripts, _) in ROLES.items() if role != "everything")) == set(NAMES)


# -- the roles, on the server


def prepare(queue: SafeRedisQueue) -> None:
    """Items in all states."""
    for name in ("put", "put generated", "put delayed", "put urgent", "claim supervised", "bury"):
        queue.link.call(OPERATIONS[name](queue.keys), queue=queue.alias)


@pytest.mark.parametrize("role", ROLES)
def test_documented_rights_are_enough_for_the_operations_of_a_role(client, connect, queue, role):
    mine = connect(*with_greeting(client, rules_of(role)))
    scripts, _ = ROLES[role]
    for make in OPERATIONS.values():
        if make(queue.keys).script.name in scripts:
            prepare(queue)
            mine.link.call(make(mine.keys), queue=mine.alias)
    assert refused(client) == []


def live(queue: SafeRedisQueue, other: SafeRedisQueue) -> None:
    """The whole life of items, with the operations of people and tools."""
    queue.put_many(["a", "b", "c", "d", "e"])
    queue.put("own", uid="own", priority=3, headers={"a": "b"})
    queue.put("late", delay=0.001)
    later = queue.put("later", delay=3600)
    assert queue.put("own", uid="own") == "own"
    first, *more = queue.get_many(4)
    assert (first.payload, len(more)) == (b"own", 3)
    assert queue.extend(first)
    assert queue.ack(first)
    assert queue.fail(more[0], ValueError("no"), delay=0.001) == "delayed"
    queue.release(more[1])
    assert SafeRedisQueue(name=queue.name, link=queue.link, max_deliveries=1).fail(more[2], "no") == "dead"
    assert queue.counts()["dead"] == 1
    assert list(queue.items("dead"))
    assert queue.count_dead()
    assert queue.requeue() == 1
    assert queue.states(more[2].uid) == ["ready"]
    assert queue.pause("stock-taking")
    assert not queue.get(-1)
    assert queue.resume()
    assert queue.get(timeout=PATIENT)
    assert queue.move(other, limit=1) == 1
    crash = operations.crashed(
        queue.keys, [DeliveryRef(item.uid, item.token) for item in queue.get_many(1)], evidence=b"{}"
    )
    assert queue.link.call(crash, queue=queue.alias).states == ["ready"]
    assert queue.recover() == 0
    assert queue.ended_leases() == 0
    assert queue.audit() == other.audit() == []
    assert queue.drop(later) == 1
    assert queue.purge() > 0
    assert len(queue) == 0
    empty = SafeRedisQueue(name="rights-empty", link=queue.link)
    assert empty.get(timeout=0.01) == (None, None)


@pytest.mark.parametrize("rules", [None, ["~srq:*", "+@all", "-@dangerous"]], ids=["documented", "nothing dangerous"])
def test_whole_life_of_items_with_few_rights(client, connect, rules):
    mine = connect(*with_greeting(client, rules or rules_of("everything")))
    live(mine, SafeRedisQueue(name="rights-other", link=mine.link))
    assert refused(client) == []


@pytest.mark.parametrize("rules", [None, ["~srq:*", "+@all", "-@dangerous"]], ids=["documented", "nothing dangerous"])
def test_consumer_as_a_process_with_few_rights(client, user, project, rules, tmp_path):
    url = user(*with_greeting(client, rules or rules_of("consumer")))
    project.configure(
        {
            "note": {"HANDLER": "tests.support.handlers.note"},
            "failing": {"HANDLER": "tests.support.handlers.failing", "MAX_DELIVERIES": 1},
        },
        {"URL": url, "PREFIX": "rights.{alias}"},
    )
    for alias in ("note", "failing"):
        queues[alias].put("x")
    code, _, err = project.run("srq_consume", "--max-items", "2", "--burst")
    assert (code, "error=" in err) == (0, True)
    assert client.hlen("srq:rights.note:items") == 0
    assert client.zcard("srq:rights.failing:dead") == 1
    # The consumer asks once about the server's persistence.
    assert refused(client) == ([("command", "info")] if rules else [])


def test_a_consumer_of_several_queues_works_without_the_right_to_take_their_wake_tokens(client, user, project):
    """Older versions did not need that right. Without it, the consumer asks each of the queues instead."""
    url = user(*with_greeting(client, rules_of("consumer")), "-lmpop")
    aliases = ("a", "b", "c")
    handled = {alias: {"HANDLER": "tests.support.handlers.note"} for alias in aliases}
    project.configure(handled, {"URL": url, "PREFIX": "rights.{alias}"})
    for alias in aliases * 2:
        queues[alias].put(alias)
    code, _, err = project.run("srq_consume", "--max-items", "6")
    assert (code, sorted(project.lines())) == (0, sorted(f"{alias} 1" for alias in aliases * 2)), err
    assert "ERROR" not in err
    assert ("command", "lmpop") in refused(client)


# -- looking


def test_viewer_sees_everything_and_leaves_nothing_in_the_log(client, user, queue, settings):
    prepare(queue)
    url = user(*with_greeting(client, rules_of("viewer")))
    settings.SRQ_QUEUES = {"shop": {"URL": url, "PREFIX": "rights", "HANDLER": "tests.support.handlers.note"}}
    client.script_flush()
    for _ in range(2):  # the first time, the scripts are sent as text
        report = status.snapshot(timeout=PATIENT).queues[0]
        assert (report.ready, report.in_flight, report.dead) == (1, 1, 1)
    out = io.StringIO()
    call_command("srq_status", "--format", "json", stdout=out)
    assert json.loads(out.getvalue())["servers"][0]["memory"] > 0
    (dead,) = queues["shop"].items("dead")
    assert queues["shop"].states(dead.uid) == ["dead"]
    with pytest.raises(QueueUnavailable):
        queues["shop"].put("x")
    assert [object for _, object in refused(client)] == ["evalsha"]


@pytest.mark.parametrize("how", ["in a thread", "several at one time"])
def test_a_user_without_the_right_for_read_only_scripts_can_look(connect, queue, how):
    """Older versions did not need that right."""
    mine = connect("~srq:*", "+@all", "-evalsha_ro", "-eval_ro")
    queue.put("x")
    if how == "in a thread":
        assert len(mine) == 1
    else:
        info, counts = mine.link.look(
            [("", operations.info()), ("rights", operations.counts(mine.keys))], timeout=PATIENT
        )
        assert ("run_id" in info, counts.ready) == (True, 1)
    assert len(mine) == 1


def test_a_user_without_the_right_for_read_only_scripts_can_look_in_an_event_loop(connect, queue):
    mine = connect("~srq:*", "+@all", "-evalsha_ro", "-eval_ro")
    queue.put("x")
    assert asyncio.run(mine.acounts())["ready"] == 1


def test_a_server_without_the_command_for_read_only_scripts():
    """Servers that resemble Redis, and proxies, lack it."""
    server = Server("--rename-command", "EVALSHA_RO", "", "--rename-command", "EVAL_RO", "")
    queue = SafeRedisQueue(name="rights", url=server.url, timeout=PATIENT)
    try:
        queue.put("x")
        assert len(queue) == 1
    finally:
        queue.link.close()
        server.close()


# -- a right that is missing


@pytest.mark.parametrize("command", sorted(commands_of("producer") - {"EVAL", "EVALSHA", "INFO"}))
def test_nothing_is_put_without_one_of_the_rights(connect, queue, command):
    mine = connect(*rules_of("producer"), f"-{command}")
    for _ in range(2):
        with pytest.raises(QueueUnavailable, match="the server's access rules forbid it to this user: .*") as raised:
            mine.put("x")
        if command != "HGET":  # a script begins with HGET, so that error comes from the server itself
            assert str(raised.value).endswith(f": {command}")
    with pytest.raises(QueueUnavailable):
        mine.put_many(["y", "z"])
    assert len(queue) == 0
    assert queue.audit() == []


def test_all_missing_rights_are_named(connect):
    with pytest.raises(QueueUnavailable, match=": HSETNX, ZCOUNT$"):
        connect(*rules_of("consumer"), "-hsetnx", "-zcount").get(-1)


@pytest.mark.parametrize("command", ["HSETNX", "HDEL", "ZADD", "LTRIM"])
def test_nothing_is_claimed_without_one_of_the_rights(client, connect, queue, command):
    queue.put("x")
    client.delete(queue.keys["slots"])  # as if the two users were in two processes
    mine = connect(*rules_of("consumer"), f"-{command}")
    with pytest.raises(QueueUnavailable, match=f": {command}$"):
        mine.get(-1)
    assert queue.audit() == []
    assert queue.ack(queue.get(-1))


def test_a_right_that_is_withdrawn_meanwhile_leaves_the_outcome_unknown(client, connect, queue):
    mine = connect(*rules_of("producer"))
    error = put_in_the_middle(client, mine, lambda: mine.put("x", uid="own"))
    assert re.search("put ended in the middle .*forbid it to this user.*same uid: own", str(error))
    assert "@user_script" not in str(error)
    assert queue.states("own") == ["ready"]  # the item was put indeed


def test_items_of_a_batch_that_failed_in_the_middle_are_in_doubt(client, connect):
    mine = connect(*rules_of("producer"))
    error = put_in_the_middle(client, mine, lambda: mine.put_many(["y", "z"]))
    assert "2 may have been" in str(error)
    assert len(error.in_doubt) == 2


def put_in_the_middle(client: redis.Redis, queue: SafeRedisQueue, put: Callable[[], object]) -> OutcomeUnknown:
    """Put without a right that the user had a moment ago; returns the error.

    Once a second the script checks the rights first; on a busy machine that may happen now.
    """
    name = queue.link.pool.connection_kwargs["username"]

    def put_once() -> OutcomeUnknown | None:
        grant(client, name, "+rpush")
        queue.put("before")
        client.delete(queue.keys["wake"])
        grant(client, name, "-rpush")
        try:
            put()
        except OutcomeUnknown as error:
            return error
        except QueueUnavailable:
            return None
        raise AssertionError("it was allowed")

    return wait_for(put_once, "a put that ends in the middle", seconds=10)


def test_the_status_says_that_the_user_may_not_look(user, queue, settings):
    queue.put("x")
    url = user("~srq:*", "+@all", "-hgetall")
    settings.SRQ_QUEUES = {"shop": {"URL": url, "PREFIX": "rights", "HANDLER": "tests.support.handlers.note"}}
    snapshot = status.snapshot(timeout=PATIENT)
    assert (snapshot.queues[0].state, snapshot.level) == ("refused", "error")
