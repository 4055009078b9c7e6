"""saferedisqueue has no worker command, so this is a loop of get and ack, as in its documentation."""

import os
import sys

import marks
from saferedisqueue import SafeRedisQueue

queue = SafeRedisQueue(url=os.environ["BENCH_URL"], name="bench")
FILLER = "x" * 80


def put(number):
    queue.put(f"{number} {FILLER}")


def put_many(numbers):
    for number in numbers:  # saferedisqueue has no put in batches
        put(number)


def send(sent):
    queue.put(f"sent {sent} {FILLER}")


def in_flight():
    return queue._redis.llen(queue.ACKBUF_KEY)


def work():
    while True:
        uid, payload = queue.get(timeout=0)
        if marks.HOLDING:
            continue
        parts = payload.decode().split()
        if parts[0] == "sent":
            marks.arrived(float(parts[1]))
        else:
            marks.handled(int(parts[0]))
        queue.ack(uid)


if __name__ == "__main__" and sys.argv[1:] == ["work"]:
    work()
