"""arq; results are not kept."""

import asyncio
import os

import marks
from arq import create_pool
from arq.connections import RedisSettings

settings = RedisSettings.from_dsn(os.environ["BENCH_URL"])
loop = asyncio.new_event_loop()
_pool = []


def pool():
    if not _pool:
        _pool.append(loop.run_until_complete(create_pool(settings)))
    return _pool[0]


async def handled(context, number):
    marks.handled(number)


async def arrived(context, sent):
    marks.arrived(sent)


class WorkerSettings:
    functions = [handled, arrived]
    redis_settings = settings
    keep_result = 0


def put(number):
    loop.run_until_complete(pool().enqueue_job("handled", number))


def put_many(numbers):
    async def put_all():
        for number in numbers:  # it has no batches
            await pool().enqueue_job("handled", number)

    pool()
    loop.run_until_complete(put_all())


def send(sent):
    loop.run_until_complete(pool().enqueue_job("arrived", sent))
