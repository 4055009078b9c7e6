"""Queues in all kinds of states, with a history, for the browser tests and the pictures."""

from __future__ import annotations

import json
import math
import random
import uuid

import redis

from django_srq import SafeRedisQueue, operations
from django_srq.operations import DeliveryRef
from django_srq.queue import failure
from tests.support.server_clock import now, pass_minutes

HERE = __file__.encode()  # replaced in tracebacks: the pictures need not show this path
CONSUMER = "c5f3a9e2b71"


def options(server_url: str, prefix: str) -> dict[str, dict[str, object]]:
    """The setting SRQ_QUEUES of these queues."""
    common = {"URL": server_url, "HANDLER": "tests.support.handlers.note"}
    names = ("orders", "mail", "thumbnails", "invoices", "imports")
    return {name: {**common, "PREFIX": f"{prefix}:{name}"} for name in names}


def tasks(server_url: str, prefix: str) -> dict[str, dict[str, object]]:
    """The setting TASKS, which makes a queue of tasks beside them: reports."""
    options = {"URL": server_url, "PREFIX": prefix + ":{alias}"}
    return {"default": {"BACKEND": "django_srq.tasks.SRQBackend", "QUEUES": ["reports"], "OPTIONS": options}}


def fill(client: redis.Redis, queues: dict[str, SafeRedisQueue]) -> None:
    generator = random.Random(7)
    orders, mail, thumbnails = queues["orders"], queues["mail"], queues["thumbnails"]
    _live(orders, client)
    for n in range(137):
        orders.put({"order": 4100 + n, "customer": {"name": "Ada", "email": "ada@example.org", "password": "hunter2"}})
    orders.put({"order": 1, "express": True}, uid="order-1", priority=10, headers={"trace": "4bf92f35", "token": "t0p"})
    for n in range(9):
        orders.put({"order": 4300 + n, "retry": True}, delay=600 * (n + 1))
    _die(orders, 6, LookupError("no such customer: 4711"))
    _die(orders, 3, TimeoutError("the payment service did not answer within 10 s"))
    _die(orders, 1, ValueError("<b>not</b> a number: '12,50'"))
    call = operations.claim(orders.keys, consumer=CONSUMER, lease=15, legacy_lease=60, n=2)
    orders.link.call(call, queue="orders")
    for n in range(12):
        mail.put({"to": f"user{n}@example.org", "subject": "Your order"})
    mail.pause("the mail provider has an outage", by="anna")
    _live(thumbnails, client)
    for n in range(3):
        thumbnails.put({"image": n})
    for n in range(40):
        queues["invoices"].put({"invoice": n})
    _live(queues["imports"], client)
    for queue, weight in ((orders, 40), (thumbnails, 9), (queues["invoices"], 5)):
        _give_a_past(queue, client, generator, weight)


def _live(queue: SafeRedisQueue, client: redis.Redis) -> None:
    about = {
        "host": "worker-1.example.org", "pid": 4242, "since": now(client) - 7_300_000, "threads": 1, "version": "1.0.0",
        "queues": ["orders", "thumbnails", "imports"], "state": "busy",
        "children": [{"pid": 4243, "items": [{"uid": "order-1", "since": now(client) - 4200}]}, {"pid": 4244}],
    }  # fmt: skip
    queue.link.call(operations.register(queue.keys, CONSUMER, json.dumps(about).encode()), queue="q")


def _die(queue: SafeRedisQueue, n: int, error: Exception) -> None:
    """Put n items, and let each die of this error."""
    for i in range(n):
        uid = queue.put({"order": 4000 + i}, priority=50)
        item = queue.get(-1)
        assert item.uid == uid
        try:
            handle_order(item.payload, error)
        except Exception as raised:
            held = DeliveryRef(str(item.uid), item.token, item.delivery.number)
            described = failure.describe(raised.with_traceback(raised.__traceback__.tb_next), consumer=CONSUMER)
            shown = described.replace(HERE, b"/srv/shop/handlers.py").replace(b"showcase.py", b"handlers.py")
            call = operations.fail(queue.keys, held, error=shown, bury=True)
            raised.__traceback__ = None
            queue.link.call(call, queue="q")


def handle_order(payload: object, error: Exception) -> None:
    raise error


def fill_tasks(client: redis.Redis, reports: SafeRedisQueue) -> None:
    """Tasks in all states, of which some are done."""
    _live(reports, client)
    for n, (value, error) in enumerate(
        [
            (None, None),
            ({"rows": 1204, "file": "reports/2026-11.pdf"}, None),
            (None, LookupError("no such customer: 4711")),
            (["ada@example.org", "bob@example.org"], None),
            (True, None),
        ]
    ):
        _finish(reports, _task("shop.tasks.monthly_report", 2026, n + 7, draft=n % 2 == 0), value, error)
    for n in range(4):
        _fail(reports, _task("shop.tasks.welcome", 4711 + n, full=False), LookupError("no such customer: 4711"), 3)
    _fail(reports, _task("shop.tasks.remind", 17, token="t0p"), TimeoutError("the mail server did not answer"), 1)
    _fail(reports, _task("shop.tasks.remind", 18), TimeoutError("the mail server did not answer"), 2, delay=900)
    reports.put(_task("shop.tasks.welcome", 5000, "Ada", full=True, password="hunter2"))
    for n in range(3):
        reports.put(_task("shop.tasks.remind", 5001 + n, "x" * (40 * n), channels=["mail", "sms"]))
    reports.put(_task("shop.tasks.nightly"), delay=3600)
    held = operations.claim(reports.keys, consumer=CONSUMER, lease=15, legacy_lease=60, n=1)
    reports.link.call(held, queue="reports")


def _task(name: str, *args: object, **kwargs: object) -> dict[str, object]:
    return {"task": name, "args": list(args), "kwargs": kwargs}


def _finish(queue: SafeRedisQueue, payload: object, value: object, error: Exception | None) -> None:
    """Put a task, and let it end with this value or error."""
    outcome: dict[str, object] = {"s": "SUCCESSFUL", "r": value}
    if error is not None:
        record = _record(error)
        outcome = {"s": "FAILED", "e": {name: record[name] for name in ("type", "message", "traceback")}}
    kept = operations.kept(86400, 1000, json.dumps(outcome).encode())
    call = operations.ack(queue.keys, [_taken(queue, queue.put(payload, priority=50))], [kept])
    queue.link.call(call, queue="q")


def _fail(queue: SafeRedisQueue, payload: object, error: Exception, deliveries: int, *, delay: float = 0) -> None:
    """Put a task, and let it fail that often; then it is dead, unless it waits."""
    uid = queue.put(payload, priority=50)
    record = json.dumps({**_record(error), "keep": 9}).encode()
    for n in range(1, deliveries + 1):
        last = n == deliveries
        held, bury = _taken(queue, uid), last and not delay
        call = operations.fail(queue.keys, held, error=record, bury=bury, delay=delay if last else 0)
        queue.link.call(call, queue="q")


def _taken(queue: SafeRedisQueue, uid: str) -> DeliveryRef:
    call = operations.claim(queue.keys, consumer=CONSUMER, lease=600, legacy_lease=600, n=1)
    (item,) = queue.link.call(call, queue="q").found
    assert item.uid == uid
    return item.ref


def _record(error: Exception) -> dict[str, object]:
    try:
        handle_order(None, error)
    except Exception as raised:
        described = failure.describe(raised.with_traceback(raised.__traceback__.tb_next), consumer=CONSUMER)
        raised.__traceback__ = None
    shown = described.replace(HERE, b"/srv/shop/tasks.py").replace(b"showcase.py", b"tasks.py")
    return json.loads(shown)


def _give_a_past(queue: SafeRedisQueue, client: redis.Redis, generator: random.Random, weight: int) -> None:
    stats = queue.keys["stats"]
    pass_minutes(client, queue.keys, 1)
    queue.put(str(uuid.UUID(int=generator.getrandbits(128))))
    minute, hour = now(client) // 60_000, now(client) // 3_600_000
    entries = {f"m{(minute - i) % 180}": _entry(generator, minute - i, weight, i / 9) for i in range(1, 180)}
    entries |= {f"h{(hour - i) % 336}": _entry(generator, hour - i, weight * 60, i / 4) for i in range(1, 336)}
    client.hset(stats, mapping=entries)


def _entry(generator: random.Random, number: int, weight: int, phase: float) -> str:
    put = round(weight * (1.1 + math.sin(phase)) * generator.uniform(0.8, 1.2))
    acked = round(put * generator.uniform(0.85, 1.1))
    failed = generator.choice([0, 0, 0, 1, 2]) * max(1, weight // 20)
    wait = round(40 * (1.3 + math.sin(phase)) * generator.uniform(0.7, 1.3))
    run = round(120 * generator.uniform(0.8, 1.2))
    recovered = generator.choice([0] * 20 + [1]) if weight in (9, 9 * 60) else 0
    return f"{number} {put} {acked} {failed} {recovered} 0 {wait} {wait * 4} {run} {run * 3}"
