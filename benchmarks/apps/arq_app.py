"""arq; it keeps no results."""

import asyncio
import os

import marks
from arq import create_pool
from arq.connections import RedisSettings
from arq.constants import in_progress_key_prefix

settings = RedisSettings.from_dsn(os.environ["BENCH_URL"])
loop = asyncio.new_event_loop()
_pool = []


def pool():
    if not _pool:
        _pool.append(loop.run_until_complete(create_pool(settings)))
    return _pool[0]


async def handled(context, number):
    if marks.HOLDING:
        await asyncio.sleep(marks.LONG)
    marks.handled(number)


async def arrived(context, sent):
    marks.arrived(sent)


class WorkerSettings:
    functions = [handled, arrived]
    redis_settings = settings
    keep_result = 0
    max_jobs = marks.HOLDING or 10  # 10 is arq's default


def put(number):
    loop.run_until_complete(pool().enqueue_job("handled", number))


def put_many(numbers):
    async def put_all():
        for number in numbers:  # arq has no put in batches
            await pool().enqueue_job("handled", number)

    pool()
    loop.run_until_complete(put_all())


def send(sent):
    loop.run_until_complete(pool().enqueue_job("arrived", sent))


def in_flight():
    return len(loop.run_until_complete(pool().keys(f"{in_progress_key_prefix}*")))
