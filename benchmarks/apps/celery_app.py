"""celery on Redis; it ignores results."""

import os

import marks
from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_URL"])
app.conf.task_ignore_result = True
app.conf.worker_hijack_root_logger = False
app.conf.broker_connection_retry_on_startup = True
app.conf.task_acks_late = bool(marks.HOLDING)  # with early acks, a started item would no longer be in flight
handled = app.task(marks.handled, name="handled")
arrived = app.task(marks.arrived, name="arrived")


def put(number):
    handled.delay(number)


def put_many(numbers):
    for number in numbers:  # a group sends its tasks one by one, too
        handled.delay(number)


def send(sent):
    arrived.delay(sent)


def in_flight():
    with app.connection() as connection:
        channel = connection.default_channel
        return channel.client.hlen(channel.unacked_key)
