"""The references of other measures: the least that redis-py and the server can do."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import redis

_PUT = """
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('RPUSH', KEYS[3], '1')
"""
_TAKE = """
local uid = redis.call('RPOP', KEYS[1])
redis.call('HSET', KEYS[3], uid, ARGV[1])
return {uid, redis.call('HGET', KEYS[2], uid)}
"""


class HandOff:
    """A hand-off to a blocked consumer that promises nothing: no leases, no stored outcomes, no housekeeping.

    A script puts an item and pushes a wake token; BLPOP returns the token, and a second script takes the item.
    """

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._keys = [f"bare:{name}:{key}" for key in ("queue", "items", "holders", "bell")]
        self._put, self._take = client.register_script(_PUT), client.register_script(_TAKE)

    def put(self, payload: bytes) -> None:
        queue, items, _, bell = self._keys
        self._put(keys=[queue, items, bell], args=[str(uuid.uuid4()), payload])

    def get(self) -> Sequence[bytes]:
        """Block for the next item; returns its uid and payload."""
        queue, items, holders, bell = self._keys
        self._client.blpop([bell])
        return self._take(keys=[queue, items, holders], args=["consumer"])

    def ack(self, uid: bytes) -> None:
        _, items, holders, _ = self._keys
        with self._client.pipeline() as pipeline:
            pipeline.hdel(items, uid).hdel(holders, uid).execute()


def lay_out_as_saferedisqueue(client: redis.Redis, name: str, payloads: Sequence[bytes]) -> None:
    """Put payloads in the layout of saferedisqueue 3.0.0, with uids like its own."""
    with client.pipeline(transaction=False) as pipeline:
        for payload in payloads:
            uid = str(uuid.uuid4())
            pipeline.hset(f"srq:{name}:items", uid, payload)
            pipeline.lpush(f"srq:{name}:queue", uid)
        pipeline.execute()
