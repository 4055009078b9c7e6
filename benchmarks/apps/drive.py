"""``python drive.py APP VERB N``: puts into a peer's queue, in the peer's own environment; prints the outcome as JSON.

An app is a module with ``put(number)``, ``put_many(numbers)`` and ``send(sent)``; marks.py has its handlers. If it can
have many items in flight, it also has ``in_flight()``, which counts them. Each other verb is a function of the app.
"""

import importlib
import json
import os
import sys
import time

name, verb, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
app = importlib.import_module(name)


def put():
    for number in range(n):
        app.put(number)


def put_many():
    for start in range(0, n, 1000):
        app.put_many(range(start, min(start + 1000, n)))


def hand_off():
    for _ in range(n):
        time.sleep(float(os.environ["BENCH_GAP"]))  # so that the worker is idle again
        app.send(time.monotonic())


if verb == "put":
    app.put(-1)  # opens the connection
work = {"put": put, "put_many": put_many, "hand_off": hand_off}.get(verb) or getattr(app, verb)
cpu, began = time.process_time(), time.perf_counter()
found = work()
print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "found": found}))
