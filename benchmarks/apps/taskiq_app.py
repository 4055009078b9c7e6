"""taskiq on a Redis stream, which acknowledges items; without results."""

import asyncio
import os

import marks
from redis.asyncio import Redis
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(url=os.environ["BENCH_URL"])
loop = asyncio.new_event_loop()


@broker.task
async def handled(number: int) -> None:
    if marks.HOLDING:
        await asyncio.sleep(marks.LONG)
    marks.handled(number)


@broker.task
async def arrived(sent: float) -> None:
    marks.arrived(sent)


def run(call):
    if not getattr(run, "started", False):
        loop.run_until_complete(broker.startup())
        run.started = True
    loop.run_until_complete(call)


def put(number):
    run(handled.kiq(number))


def put_many(numbers):
    async def put_all():
        for number in numbers:  # taskiq has no put in batches
            await handled.kiq(number)

    run(put_all())


def send(sent):
    run(arrived.kiq(sent))


def in_flight():
    async def pending():
        async with Redis(connection_pool=broker.connection_pool) as client:
            return await client.xpending(broker.queue_name, broker.consumer_group_name)

    return loop.run_until_complete(pending())["pending"]
