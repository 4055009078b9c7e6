"""dramatiq on its Redis broker, without results."""

import os

import dramatiq
import marks
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(url=os.environ["BENCH_URL"])
dramatiq.set_broker(broker)
handled = dramatiq.actor(marks.handled)
arrived = dramatiq.actor(marks.arrived)


def put(number):
    handled.send(number)


def put_many(numbers):
    for number in numbers:  # dramatiq has no put in batches
        handled.send(number)


def send(sent):
    arrived.send(sent)


def in_flight():
    return sum(map(broker.client.scard, broker.client.scan_iter(f"{broker.namespace}:__acks__.*")))
