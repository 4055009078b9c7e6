"""rq; it keeps no results."""

import os

import marks
import redis
from rq import Queue

queue = Queue("bench", connection=redis.Redis.from_url(os.environ["BENCH_URL"]))


def put(number):
    queue.enqueue(marks.handled, number, result_ttl=0)


def put_many(numbers):
    queue.enqueue_many([Queue.prepare_data(marks.handled, args=(number,), result_ttl=0) for number in numbers])


def send(sent):
    queue.enqueue(marks.arrived, sent, result_ttl=0)
