"""The threads of a worker, and what none of them may do while it has the lock of all."""

from __future__ import annotations

import threading
from contextlib import closing

from django_srq import SafeRedisQueue
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.consumer.test_wakeups import running
from tests.support.proxy import Proxy
from tests.support.waiting import PATIENT, wait_for

ITEMS = 20


def test_a_connection_for_acks_that_is_slow_to_open_holds_up_no_other_thread(queue, server_url):
    queue.put_many(["x"] * ITEMS)
    with closing(Proxy(server_url)) as proxy, closing(Link(client_from_url(proxy.url), timeout=PATIENT)) as link:
        remote, faults, seen, lock = SafeRedisQueue(name=queue.name, link=link), [], [], threading.Lock()

        def handle(item: object) -> None:
            with lock:
                if not faults:  # the next connection, over which this item is acked, is not greeted
                    faults.append(proxy.arm("stall reply", b"SETINFO", times=1))
                seen.append(item)

        options = ConsumerOptions(threads=3, prefetch=ITEMS)
        with running(InProcessConsumer([Subscription(remote, handle, lease=600)], options=options)):
            wait_for(lambda: len(seen) == ITEMS, "all items, beside the thread that connects")
            (fault,) = faults
            assert fault.hits == 1
            assert queue.counts()["in_flight"] >= 1  # the first is not acked yet
            fault.deliver()
            wait_for(lambda: sum(queue.counts().values()) == 0, "all acks")
