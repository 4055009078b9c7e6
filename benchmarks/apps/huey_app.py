"""huey, with its blocking Redis storage and without results."""

import os

import marks
from huey import RedisHuey

huey = RedisHuey("bench", url=os.environ["BENCH_URL"], results=False)
handled = huey.task()(marks.handled)
arrived = huey.task()(marks.arrived)


def put(number):
    handled(number)


def put_many(numbers):
    for number in numbers:  # huey has no put in batches
        handled(number)


def send(sent):
    arrived(sent)
