"""``python calls.py URL N``: puts, gets, acks and consumes items by the package that the path leads to.

Prints as JSON, for each of them, the µs a call that passed, that this process computed, and that the server computed.
"""

import json
import sys
import time
import uuid

import redis

import django_srq
from django_srq import SafeRedisQueue
from django_srq.consumer import InProcessConsumer, Subscription

PAYLOAD = b"x" * 100
url, n = sys.argv[1], int(sys.argv[2])
queue = SafeRedisQueue(name=uuid.uuid4().hex, url=url, autoclean_interval=3600)
control = redis.Redis.from_url(url)
taken, found = [], {}


def in_scripts():
    return control.info("commandstats")["cmdstat_evalsha"]["usec"]


def measure(name, work):
    server, cpu, began = in_scripts(), time.process_time(), time.perf_counter()
    work()
    spent = time.perf_counter() - began, time.process_time() - cpu, (in_scripts() - server) / 1e6
    found[name] = [seconds / n * 1e6 for seconds in spent]


queue.put(PAYLOAD)
queue.ack(queue.get(-1))  # all scripts are loaded
measure("put", lambda: [queue.put(PAYLOAD) for _ in range(n)])
measure("get", lambda: taken.extend(queue.get(-1) for _ in range(n)))
measure("ack", lambda: [queue.ack(item) for item in taken])
queue.put_many([PAYLOAD] * n)
measure("consume", InProcessConsumer([Subscription(queue, lambda item: None)], burst=True).run)
print(json.dumps({"package": django_srq.__file__, "found": found}))
