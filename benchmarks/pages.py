"""The cost of the status view: each page with many items and with few, the overview, and servers that are down."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from functools import partial
from importlib import resources
from typing import Any

from benchmarks.harness import Bench, Row, Target, alternate
from benchmarks.server import Meter
from django_srq.status.browse import SEARCHED
from tests.support.servers import held_port

URL = "/admin/django_srq/queuestatus/"
PAGES = {
    "overview": "",
    "ready": "queue/{}/",
    "ready, last page": "queue/{}/?page=999999",
    "searched": "queue/{}/?q=nothing",
    "in flight": "queue/{}/?state=in_flight",
    "delayed": "queue/{}/?state=delayed",
    "dead": "queue/{}/?state=dead",
    "all dead": "queue/{}/?state=dead&all=1",
    "dead of one error": "queue/{}/?state=dead&group=even",
    "item": "queue/{}/item/?uid=dead-000007",
    "consumers": "consumers/",
    "confirm": "queue/{}/drop/?state=dead&everything=1",
}
SEARCHES = {"searched", "dead of one error"}
BATCHES = (
    ("requeue", "dead", "odd"),
    ("requeue", "dead", ""),
    ("drop", "delayed", ""),
    ("release", "in_flight", ""),
    ("purge", "ready", ""),
)
FEW = 100
AT_A_TIME = 20_000
QUEUES = 20


def measure(bench: Bench) -> Iterator[Row]:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
    from django.test.utils import setup_test_environment, teardown_test_environment

    setup_test_environment()
    try:
        browser = _browser()
        yield from _growth(bench, browser)
        yield from _batches(bench)
        yield from _overview(bench, browser)
        yield _weight()
        yield _down(browser)
    finally:
        teardown_test_environment()
        bench.clear()


def _browser() -> Any:
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client

    call_command("migrate", verbosity=0)
    browser = Client()
    browser.force_login(User.objects.filter(username="root").first() or User.objects.create_superuser("root"))
    return browser


def _growth(bench: Bench, browser: Any) -> Iterator[Row]:
    """The time of a whole request for each page; it includes the time of the scripts in the server."""
    from django.test import override_settings

    sizes = {"few": FEW, "one-look": 10 * SEARCHED, "many": bench.sizes.waiting[-1]}
    with override_settings(SRQ_QUEUES={alias: {"URL": bench.server.url} for alias in sizes}):
        for alias, n in sizes.items():
            _fill(bench, alias, n)

    def timed(alias: str, path: str) -> float:
        with override_settings(SRQ_QUEUES={alias: {"URL": bench.server.url}}, SRQ_ADMIN={"TIMEOUT": 5}):
            began = time.perf_counter()
            for _ in range(bench.sizes.requests):
                response = browser.get(URL + path.format(alias))
            took = time.perf_counter() - began
            assert response.status_code == 200, response.content
            return took / bench.sizes.requests * 1000

    for name, path in PAGES.items():
        # A search looks at 1,000 items at most, so its reference has more than one look as well.
        few = "one-look" if name in SEARCHES else "few"
        taken = alternate({alias: partial(timed, alias, path) for alias in (few, "many")}, 2 * bench.sizes.rounds)
        what = f"page {name}, {sizes['many']:,} items"
        yield Row(what, taken["many"], "ms", f"{sizes[few]:,} items", taken[few], Target(1.3))


def _batches(bench: Bench) -> Iterator[Row]:
    """The time of one batch of 1,000 items, for each action: a long operation is a row of such requests."""
    from django.test import override_settings

    with override_settings(SRQ_QUEUES={"many": {"URL": bench.server.url}}):
        from django_srq import queues
        from django_srq.admin import batches
        from django_srq.status import browse

        queue = queues["many"]
        for action, state, group in BATCHES:
            times = []
            for _ in range(bench.sizes.rounds):
                at = browse.page_of(queue.config, "ready").at
                operation = batches.BulkAction.begin(batches.Selection(action, "many", state, group), 10**6, at)
                began = time.perf_counter()
                done = batches.carry_on(operation, queue).done
                times.append((time.perf_counter() - began) * 1000)
                assert done or bench.sizes.waiting[-1] < 10**6
            what = f"of {group}" if group else state.replace("_", " ")
            yield Row(f"batch: {action} {what}", times, "ms", target=Target(200))


def _fill(bench: Bench, alias: str, n: int) -> None:
    """Add n ready items, and a tenth of that dead, delayed and in flight each; written directly, which is faster."""
    from django_srq import queues

    queue, client = queues[alias], bench.server.client()
    for start in range(0, n, AT_A_TIME):
        queue.put_many([{"n": i} for i in range(start, min(n, start + AT_A_TIME))])
    tenth = max(60, n // 10)
    now = int(time.time() * 1000)
    groups = {"even": f"{tenth - tenth // 2} {now} {now}", "odd": f"{tenth // 2} {now} {now}"}
    for start in range(0, tenth, AT_A_TIME):
        with client.pipeline(transaction=False) as pipe:
            for i in range(start, min(tenth, start + AT_A_TIME)):
                error = f'{{"type":"E","message":"m","group":"{"odd" if i % 2 else "even"}"}}'
                pipe.hset(queue.keys["items"], mapping={f"{kind}-{i:06}": b"1" for kind in ("dead", "late", "held")})
                pipe.zadd(queue.keys["dead"], {f"dead-{i:06}": now - i})
                pipe.hset(queue.keys["errors"], f"dead-{i:06}", error)
                pipe.zadd(queue.keys["delayed"], {f"late-{i:06}": now + 3_600_000 + i})
                pipe.zadd(queue.keys["leases"], {f"held-{i:06}": now + 3_600_000 + i})
                pipe.hset(queue.keys["holders"], f"held-{i:06}", f"c1/{i}@{now}")
            pipe.execute()
    client.hset(queue.keys["deadgroups"], mapping=groups)


def _overview(bench: Bench, browser: Any) -> Iterator[Row]:
    """The overview of twenty queues: its round trips, its database queries, and the page's size."""
    from django.db import connection
    from django.test import override_settings
    from django.test.utils import CaptureQueriesContext
    from django.urls import reverse

    meter = Meter(bench.server.port)
    configured = {f"q{n}": {"URL": meter.url, "PREFIX": f"overview{n}"} for n in range(QUEUES)}
    with override_settings(SRQ_QUEUES=configured, SRQ_ADMIN={"TIMEOUT": 5}):
        from django_srq import queues

        for alias in configured:
            queues[alias].put_many([1, 2, 3])
            queues[alias].ack(queues[alias].get(-1))
        browser.get(URL)
        before = meter.round_trips
        with CaptureQueriesContext(connection) as ours:
            response = browser.get(URL)
        yield Row(
            f"overview of {QUEUES} queues", [meter.round_trips - before], "round trips", target=Target(1, timed=False)
        )
        with CaptureQueriesContext(connection) as admins:
            browser.get(reverse("admin:password_change"))
        more = max(0, len(ours) - len(admins))
        yield Row("its SQL queries beyond the admin's", [more], "queries", target=Target(2, timed=False))
        yield Row("its HTML", [len(response.content) / 1024], "KB", target=Target(25, timed=False))
    meter.close()


def _weight() -> Row:
    static = resources.files("django_srq") / "static" / "django_srq"
    size = sum(len(file.read_bytes()) for file in static.iterdir() if re.search(r"\.(css|js)$", file.name))
    return Row("CSS and JavaScript", [size / 1024], "KB", target=Target(12, timed=False))


def _down(browser: Any) -> Row:
    """The time of the overview with a server that does not answer and one that refuses connections."""
    import socket

    from django.test import override_settings

    with socket.socket() as hole, held_port() as dead_port:
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        configured = {
            "silent": {"URL": f"redis://127.0.0.1:{hole.getsockname()[1]}"},
            "refusing": {"URL": f"redis://127.0.0.1:{dead_port}"},
        }
        with override_settings(SRQ_QUEUES=configured, SRQ_ADMIN={}):  # no TIMEOUT: the view's default applies
            began = time.perf_counter()
            response = browser.get(URL)
            took = time.perf_counter() - began
    assert response.status_code == 200
    return Row("overview, servers down", [took], "s", target=Target(1))
