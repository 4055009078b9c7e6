"""Errors name the queue and the cause, but no password; nothing is lost, and nothing is done in part."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import redis

from django_srq import (
    DuplicateItem,
    InvalidArgument,
    LayoutError,
    OutcomeUnknown,
    PayloadError,
    PayloadTooLarge,
    QueueFull,
    QueueUnavailable,
    SafeRedisQueue,
    operations,
)
from django_srq.operations import DeliveryRef
from django_srq.queue.item import Item
from django_srq.queue.serializers import JSON
from django_srq.transport import budget
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.support.servers import Server
from tests.support.waiting import wait_for

PASSWORD = "secret-word"


@pytest.fixture
def at() -> Iterator[Callable[..., SafeRedisQueue]]:
    """Makes queues named orders at a URL."""
    links = []

    def make(url: str, timeout: float = 20, **options: object) -> SafeRedisQueue:
        links.append(Link(client_from_url(url), timeout=timeout))
        return SafeRedisQueue(name="orders", link=links[-1], **options)

    yield make
    for link in links:
        link.close()


def calls(queue: SafeRedisQueue) -> dict[str, Callable[[], object]]:
    """Every call that a user can make."""
    return {
        "put": lambda: queue.put("x"),
        "put_many": lambda: queue.put_many("ab"),
        "get": lambda: queue.get(0.2),
        "get_many": lambda: queue.get_many(5),
        "ack": lambda: queue.ack("some"),
        "fail": lambda: queue.fail("some", "error"),
        "extend": lambda: queue.extend("some"),
        "release": lambda: queue.release("some"),
        "requeue": lambda: queue.requeue("some"),
        "drop": lambda: queue.drop("some"),
        "purge": lambda: queue.purge(),
        "recover": lambda: queue.recover(),
        "pause": lambda: queue.pause(),
        "resume": lambda: queue.resume(),
        "len": lambda: len(queue),
        "items": lambda: list(queue.items()),
        "audit": lambda: queue.audit(),
    }


CALLS = list(calls(SafeRedisQueue(name="x")))
READS = ["len", "items", "audit"]
every_call = pytest.mark.parametrize("name", CALLS)


# -- the server


@every_call
def test_unreachable_server(at, name, dead_port):
    queue = at(f"redis://127.0.0.1:{dead_port}/3", timeout=0.05)
    with pytest.raises(QueueUnavailable, match=rf"queue 'orders' \(127\.0\.0\.1:{dead_port}/3\): .*refused") as caught:
        calls(queue)[name]()
    assert isinstance(caught.value, redis.ConnectionError)
    assert isinstance(caught.value.__cause__, redis.ConnectionError)


# redis-py 5.0 leaves the socket of a failed connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed <socket", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_missing_socket(at, tmp_path):
    with pytest.raises(QueueUnavailable, match=rf"queue 'orders' \(unix://{tmp_path}/none\): "):
        at(f"unix://{tmp_path}/none", timeout=0.05).put("x")


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    """A server with a password, and a user who may read only."""
    server = Server()
    with server.client() as client:
        client.acl_setuser("reader", enabled=True, passwords=["+" + PASSWORD], keys=["*"], categories=["+@read"])
        client.config_set("requirepass", "right")
    yield server
    server.close()


@pytest.mark.parametrize("user", [f":{PASSWORD}@", f"somebody:{PASSWORD}@", f"?password={PASSWORD}"])
def test_wrong_password(at, locked, user):
    address = f"127.0.0.1:{locked.port}"
    url = f"redis://{address}/0{user}" if user.startswith("?") else f"redis://{user}{address}/0"
    queue = at(url, timeout=20)  # a wrong password is not tried again: the test would take 20 s
    with pytest.raises(QueueUnavailable, match=r"queue 'orders' .*the server refuses the user or password") as caught:
        queue.put("x")
    assert PASSWORD not in str(caught.value)
    assert PASSWORD not in str(caught.value.__cause__)
    assert PASSWORD not in repr(queue)


def test_missing_password(at, locked):
    with pytest.raises(QueueUnavailable, match=r"queue 'orders' .*the server refuses the user or password"):
        at(locked.url, timeout=20).put("x")


def test_user_without_the_rights(at, locked):
    url = f"redis://reader:{PASSWORD}@127.0.0.1:{locked.port}/0"
    with pytest.raises(QueueUnavailable, match=r"queue 'orders' .*access rules forbid") as caught:
        at(url, timeout=20).put("x")
    assert PASSWORD not in str(caught.value)


def test_read_only_replica(serve, at, monkeypatch):
    monkeypatch.setattr(budget, "SHORTEST_ATTEMPT", 19.9)  # gives up after a tenth of a second
    server = serve()
    queue = at(server.url)
    uid = queue.put("x")
    before = queue.snapshot().stats
    with server.client() as client:
        client.replicaof("127.0.0.1", 1)  # nobody listens there
        for name, call in calls(queue).items():
            if name in READS:
                call()
            else:
                with pytest.raises(QueueUnavailable, match=r"queue 'orders' .*read-only replica"):
                    call()
        assert queue.snapshot().stats == before
        client.replicaof("no", "one")
    assert queue.audit() == []
    assert queue.get(-1).uid == uid


def test_server_that_is_still_loading(serve, at):
    server = serve()
    queue = at(server.url, timeout=20)
    uid = queue.put("x")
    with client_from_url(server.url) as client:
        client.mset({f"key{n}": os.urandom(200) for n in range(10_000)})
        client.save()
        server.stop()
        # Each key takes a millisecond to load; the server replies in between.
        server.options = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
        server.start(wait=False)
        wait_for(lambda: is_loading(client), "the server to load")
        # On a slow machine, the last attempt of a put may get no reply at all.
        said = wait_for(lambda: refusal(at(server.url, timeout=1)), "a put that is refused")
        assert re.search(r"queue 'orders' .*still loading", said)
        client.config_set("key-load-delay", 0)  # load the rest quickly
    # With enough time, a put waits until the server has loaded.
    assert queue.get(-1).uid == uid
    assert queue.audit() == []


def refusal(queue: SafeRedisQueue) -> str:
    try:
        queue.put("y")
    except QueueUnavailable as error:
        return str(error)
    except OutcomeUnknown:
        pass
    return ""


def is_loading(client: redis.Redis) -> bool:
    try:
        assert not client.ping(), "it loaded too fast for this test"
    except redis.BusyLoadingError:
        return True
    except redis.ConnectionError:
        return False


# -- out of memory


@pytest.fixture
def limited(serve) -> Server:
    return serve("--maxmemory-policy", "noeviction")


def fill(server: Server) -> None:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        client.script_flush()  # the scripts have to be sent again, which needs memory as well


def make_room(server: Server) -> None:
    with server.client() as client:
        client.config_set("maxmemory", 0)


@pytest.mark.parametrize("name", ["put", "put_many", "requeue", "pause"])
def test_a_full_server_refuses_calls_that_need_memory(limited, at, name):
    queue = at(limited.url)
    kept = queue.put("kept", uid="some")
    before = queue.snapshot()
    fill(limited)
    with pytest.raises(QueueUnavailable, match=r"queue 'orders' .*out of memory \(maxmemory\)"):
        calls(queue)[name]()
    after = queue.snapshot()
    assert (after.ready, after.stats, after.paused) == (1, before.stats, None)
    assert queue.audit() == []
    make_room(limited)
    calls(queue)[name]()
    assert queue.get(-1).uid == kept if name != "pause" else queue.resume()


def test_full_server_can_be_drained(limited, at):
    queue = at(limited.url, max_deliveries=2)
    queue.put_many(range(6))
    queue.put("x", delay=0.001)
    dead = queue.get(-1)
    queue.fail(dead, "once")
    fill(limited)
    acked, failed, released, extended, crashed = items = queue.get_many(5)
    assert queue.ack(acked)
    assert queue.fail(failed, ValueError("x"), delay=60) == "delayed"
    assert queue.release(released)
    assert queue.extend(extended, 90)
    evidence = b'{"type":"Crashed","message":"signal 9"}'
    call = operations.crashed(queue.keys, [DeliveryRef(crashed.uid, crashed.token)], evidence=evidence)
    assert queue.link.call(call, queue="orders").states == ["ready"]
    assert queue.recover() == 0
    assert queue.audit() == []
    served = []
    while item := queue.get(0.1):
        served.append(item.uid)
        assert queue.ack(item)
    assert served[:2] == [released.uid, crashed.uid]
    assert dead.uid in served
    assert queue.ack(extended)
    assert queue.purge() == 1
    assert queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0}
    assert queue.audit() == []
    assert len(set(served) | {item.uid for item in items}) == 7


def test_full_server_keeps_errors_without_their_tracebacks(limited, at):
    queue = at(limited.url)
    queue.put("x")

    def fail() -> None:
        try:
            raise ValueError("no stock")
        except ValueError as error:
            queue.fail(queue.get(-1), error)

    fail()
    (item,) = queue.items()
    assert "traceback" in item.delivery.error
    fill(limited)
    fail()
    (item,) = queue.items()
    assert [error["message"] for error in item.errors] == ["no stock", "no stock"]
    assert not any("traceback" in error for error in item.errors)


def test_delayed_items_of_a_full_server_can_be_made_ready(limited, at):
    queue = at(limited.url)
    queue.put_many("ab")
    items = queue.get_many(2)
    queue.fail_many(items, "x", delay=60)
    fill(limited)
    assert queue.run_now(items[0].uid) == queue.run_now() == 1
    assert queue.counts()["ready"] == 2


def test_full_server_can_bury_and_be_purged(limited, at):
    queue = at(limited.url, max_deliveries=1)
    queue.put_many("ab")
    fill(limited)
    assert queue.fail(queue.get(-1), "broken") == "dead"
    (item,) = queue.items("dead")
    assert item.delivery.error["message"] == "broken"
    assert queue.drop(item.uid) == 1
    assert queue.purge() == 1
    assert queue.audit() == []


# -- the script cache


def test_flushed_script_cache_is_no_error(queue, client):
    for call in calls(queue).values():
        client.script_flush()
        call()
    queue.purge()
    client.script_flush()
    queue.ack_many(queue.get_many(9))
    uid = queue.put("x")
    client.script_flush()
    item = queue.get(-1)
    client.script_flush()
    assert item.uid == uid
    assert queue.ack(item)
    assert queue.audit() == []


def test_flushed_script_cache_does_not_double_a_call(queue, client):
    for _ in range(20):
        client.script_flush()
        queue.put("x")
    assert queue.snapshot().stats["put"] == len(queue) == 20


# -- payloads


@pytest.mark.parametrize(("serializer", "payload"), [(JSON(), object()), (None, {"a": "dict"}), (None, None)])
def test_unserialisable_payload(make_queue, serializer, payload):
    queue = make_queue(serializer=serializer)
    for put in (queue.put, lambda one: queue.put_many(["good", one])):
        with pytest.raises(PayloadError, match=rf"^queue '{queue.alias}': .*{type(payload).__name__}"):
            put(payload)
    assert queue.counts()["ready"] == 0
    assert queue.audit() == []


def test_undecodable_payload_is_set_aside_and_the_next_item_served(make_queue):
    queue = make_queue(serializer=JSON(), max_deliveries=5)
    bad = make_queue().put("{broken")
    good = queue.put({"order": 17})
    assert queue.get(-1) == (good, {"order": 17})
    (item,) = queue.items("dead")
    assert item == (bad, b"{broken")
    assert item.delivery.error["type"] == "django_srq.exceptions.PayloadError"
    assert queue.audit() == []


@pytest.mark.parametrize("take", [lambda queue: queue.get(-1), lambda queue: queue.get(0.1), lambda q: q.get_many(9)])
def test_undecodable_payload_alone_is_an_empty_queue(make_queue, take):
    queue = make_queue(serializer=JSON())
    make_queue().put_many(["{broken"] * 3)
    assert not take(queue)
    assert queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 3}


def test_undecodable_payload_among_many(make_queue):
    queue = make_queue(serializer=JSON())
    first = queue.put(1)
    make_queue().put("{broken")
    third = queue.put(3)
    assert queue.get_many(3) == [(first, 1), (third, 3)]
    assert queue.counts()["dead"] == 1


def test_undecodable_payload_can_be_requeued_for_those_who_can_read_it(make_queue):
    queue = make_queue(serializer=JSON())
    uid = make_queue().put("{broken")
    assert not queue.get(-1)
    assert queue.requeue(uid) == 1
    assert make_queue().get(-1) == (uid, b"{broken")


def test_too_large_payload(make_queue):
    queue = make_queue(max_payload_bytes=10)
    for put in (queue.put, lambda one: queue.put_many(["small", one])):
        with pytest.raises(
            PayloadTooLarge, match=rf"^queue '{queue.alias}': the payload has 11 bytes, the limit is 10"
        ):
            put("x" * 11)
    assert len(queue) == 0


def test_full_queue(make_queue):
    queue = make_queue(max_length=1)
    queue.put("x", uid="own")
    with pytest.raises(QueueFull, match=rf"^queue '{queue.alias}' is full: 1 items .* the limit is 1"):
        queue.put("y")
    with pytest.raises(DuplicateItem, match=rf"^queue '{queue.alias}': own is there already \(ready\)"):
        queue.put("y", uid="own", strict=True)
    assert queue.counts()["ready"] == 1
    assert queue.audit() == []


# -- uids

MALFORMED = ["", "x" * 129, "with blank", "tab\t", "new\nline", "naïve", "\x00", "\x7f"]


@pytest.mark.parametrize("uid", [*MALFORMED, 17, b"bytes", ("tuple",)])
def test_malformed_uid_of_a_put(queue, uid):
    with pytest.raises(InvalidArgument, match=rf"^queue '{queue.alias}': a uid is 1 to 128 visible ASCII"):
        queue.put("x", uid=uid)
    assert len(queue) == 0


@pytest.mark.parametrize("uid", [*MALFORMED, 17, None, (None, None), "naïve".encode(), b"\xff"])
@pytest.mark.parametrize("verb", ["ack", "fail", "extend", "release"])
def test_malformed_uid_of_a_settlement(queue, verb, uid):
    with pytest.raises(InvalidArgument, match=rf"^queue '{queue.alias}': "):
        getattr(queue, verb)(uid)


@pytest.mark.parametrize("verb", ["ack", "fail", "extend", "release"])
def test_empty_item_cannot_be_settled(queue, verb):
    with pytest.raises(InvalidArgument, match=rf"^queue '{queue.alias}': an Item that get returned"):
        getattr(queue, verb)(queue.get(-1))


@pytest.mark.parametrize("verb", ["requeue", "drop"])
def test_malformed_uid_among_many_stops_all(queue, verb):
    queue.put("x", uid="own")
    with pytest.raises(InvalidArgument):
        getattr(queue, verb)("own", "with blank")
    assert len(queue) == 1


def test_foreign_uid_changes_nothing(queue):
    queue.put("x")
    answers = [queue.ack("foreign"), queue.extend("foreign"), queue.release("foreign"), queue.fail("foreign", "error")]
    assert answers == [False, False, False, None]
    assert (queue.requeue("foreign"), queue.drop("foreign")) == (0, 0)
    assert queue.counts() == {"ready": 1, "in_flight": 0, "delayed": 0, "dead": 0}
    assert queue.audit() == []


def test_item_of_another_queue_changes_nothing(make_queue):
    queue, other = make_queue(), make_queue("-other")
    queue.put("x", uid="own")
    other.put("x", uid="own")
    mine, foreign = queue.get(-1), other.get(-1)
    assert queue.get(-1) == (None, None)
    assert mine.uid == foreign.uid
    assert queue.ack(mine)
    assert not queue.ack(foreign)
    assert other.counts()["in_flight"] == 1


# -- other arguments


@pytest.mark.parametrize("timeout", [float("nan"), None, "1", True, [1]])
@pytest.mark.parametrize("take", [lambda queue, t: queue.get(t), lambda queue, t: queue.get_many(3, t)])
def test_wrong_timeout_of_a_get(queue, take, timeout):
    queue.put("x")
    with pytest.raises(InvalidArgument, match=rf"^queue '{queue.alias}': timeout is a number of seconds"):
        take(queue, timeout)
    assert len(queue) == 1


@pytest.mark.parametrize("n", [0, 1001, 2.5, True, "3", None])
def test_wrong_number_of_a_get(queue, n):
    queue.put("x")
    with pytest.raises(InvalidArgument, match=rf"^queue '{queue.alias}': n is a whole number from 1 to 1000"):
        queue.get_many(n)
    assert len(queue) == 1


@pytest.mark.parametrize("error", [5, b"bytes", ValueError, ["text"]])
@pytest.mark.parametrize("fail", [lambda queue, *args: queue.fail(*args), lambda queue, i, e: queue.fail_many([i], e)])
def test_wrong_error_of_a_failure(queue, fail, error):
    queue.put("x")
    with pytest.raises(InvalidArgument, match=rf"^queue '{queue.alias}': error is an exception, text or None"):
        fail(queue, queue.get(-1), error)
    assert queue.counts()["in_flight"] == 1


@pytest.mark.parametrize("verb", ["put_many", "ack_many", "fail_many"])
@pytest.mark.parametrize("items", [5, None])
def test_the_methods_for_many_refuse_arguments_that_are_no_collection(queue, verb, items):
    with pytest.raises(InvalidArgument, match=rf"^queue '{queue.alias}': items are several, such as a list"):
        getattr(queue, verb)(items)


# -- the keys


@pytest.mark.parametrize("settled", [True, False], ids=["a while later", "at once"])
@pytest.mark.parametrize("key", operations.key_types())
def test_a_key_of_a_foreign_type_is_an_error_until_it_is_gone(queue, client, key, settled):
    """For each key of the queue: calls name the key, and all is as before when it is gone."""
    uids = [queue.put("x"), queue.put("y")]
    item = queue.get(-1)
    queue.release(item)
    if settled:
        client.hset(queue.keys["meta"], mapping={"seen": 1, "typed": 1})
    name = queue.keys[key]
    mine = client.exists(name) and client.rename(name, f"{name}-mine")
    plant(client, name, operations.key_types()[key])
    refusals = {}
    for verb in ("put", "put_many", "get", "ack", "fail", "recover"):
        try:
            calls(queue)[verb]()
        except LayoutError as error:
            refusals[verb] = str(error)
    if settled or key == "meta":
        assert len(refusals) == 6
    expected = re.compile(rf"queue '{queue.alias}' \(.*\): .*; something else uses this prefix(; 0 of 2 .*)?")
    assert all(expected.fullmatch(message) for message in refusals.values())
    client.delete(name)
    if mine:
        client.rename(f"{name}-mine", name)
    assert queue.audit() == []
    found = [item.uid for state in operations.STATES for item in queue.items(state)]
    assert len(found) == len(set(found))
    assert set(found) >= set(uids)


def drop_released(queue: SafeRedisQueue, item: Item) -> None:
    queue.release(item)
    queue.drop(item.uid)


def purge_others(queue: SafeRedisQueue, item: Item) -> None:
    queue.put("y")
    queue.purge()


def let_pass(client: redis.Redis, queue: SafeRedisQueue, seconds: float) -> None:
    """Move back the times of the last looks at the server and at the types of the keys."""
    for field in ("seen", "typed"):
        client.hincrby(queue.keys["meta"], field, -round(1000 * seconds))


def restore(client: redis.Redis, queue: SafeRedisQueue, seconds: float) -> None:
    """The same on another server, which has restored a backup of the queue."""
    let_pass(client, queue, seconds)
    client.hset(queue.keys["meta"], "run_id", "rother")


@pytest.mark.parametrize(("later", "seconds"), [(let_pass, 61), (restore, 2)])
@pytest.mark.parametrize("key", sorted(operations.key_types().keys() - {"meta", "slots"}))
def test_a_key_of_a_foreign_type_in_an_empty_queue(queue, client, key, later, seconds):
    """A claim that finds nothing checks the types once a minute; a put checks them before it changes anything."""
    assert not queue.get(-1)
    name = queue.keys[key]
    client.delete(name)
    let_pass(client, queue, 2)
    plant(client, name, operations.key_types()[key])
    with suppress(LayoutError):
        assert not queue.get(-1)
    with pytest.raises(LayoutError, match=f"{name} holds a"):
        queue.put("x")
    later(client, queue, seconds)
    with pytest.raises(LayoutError, match=f"{name} holds a"):
        queue.get(-1)
    client.delete(name)
    assert len(queue) == 0
    assert queue.put("x") == queue.get(-1).uid
    assert queue.audit() == []


@pytest.mark.parametrize("key", ["deliveries", "crashes", "errors", "headers"])
@pytest.mark.parametrize(
    "remove", [SafeRedisQueue.ack, lambda queue, item: queue.ack(item.uid), drop_released, purge_others]
)
def test_a_removal_that_stops_at_a_foreign_key_loses_no_item(queue, client, key, remove):
    queue.put("x")
    item = queue.get(-1)
    plant(client, queue.keys[key], operations.key_types()[key])
    with pytest.raises(LayoutError):
        remove(queue, item)
    client.delete(queue.keys[key])
    assert queue.audit() == []


def plant(client: redis.Redis, name: str, kind: str) -> None:
    if kind == "string":
        client.lpush(name, "foreign")
    else:
        client.set(name, "foreign")


@pytest.mark.parametrize("name", [name for name in CALLS if name not in READS])
def test_newer_layout(queue, client, name):
    uid = queue.put("x")
    before = queue.snapshot().stats
    client.hset(queue.keys["meta"], "layout", 2)
    with pytest.raises(
        LayoutError, match=rf"^queue '{queue.alias}' .*version 2, this package knows 1: upgrade django-srq"
    ):
        calls(queue)[name]()
    for look in (queue.snapshot, queue.counts, queue.audit, lambda: len(queue), lambda: list(queue.items())):
        with pytest.raises(LayoutError, match="version 2"):
            look()
    client.hset(queue.keys["meta"], "layout", 1)
    assert queue.snapshot().stats == before
    assert queue.get(-1).uid == uid
