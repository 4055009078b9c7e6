"""The server's clock, which cannot be turned, and what lets time pass for a queue all the same."""

from __future__ import annotations

import re

import redis

from django_srq.operations import Keys


def now(client: redis.Redis) -> int:
    """The server's time (ms)."""
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def pass_time(client: redis.Redis, keys: Keys, seconds: float) -> None:
    """Bring deadlines and due times nearer; a negative deadline is one that ends without being recovered.

    Somebody calls all the while: it is no silence.
    """
    for key in ("leases", "delayed"):
        scores = client.zrange(keys[key], 0, -1, withscores=True)
        moved = {uid: score - seconds * 1000 if score > 0 else score + seconds * 1000 for uid, score in scores}
        if moved:
            client.zadd(keys[key], moved)
    for moment in ("silent", "quiet", "restarted"):
        if client.hexists(keys["meta"], moment):
            client.hincrby(keys["meta"], moment, -round(seconds * 1000))
    for field, known in client.hscan_iter(keys["slots"]):
        if known.startswith(b"0 "):  # no slot's, but what is remembered of a consumer, and since when
            earlier = re.sub(rb"\b\d{13}\b", lambda moment: b"%d" % (int(moment[0]) - round(seconds * 1000)), known)
            client.hset(keys["slots"], field, earlier)


def pass_minutes(client: redis.Redis, keys: Keys, minutes: int) -> None:
    """Let what the time series say happened have happened so many minutes earlier."""
    client.hincrby(keys["meta"], "minute", -minutes)
    stats = {name.decode(): value.decode() for name, value in client.hgetall(keys["stats"]).items()}
    for name, ring, most, step in (("minute", "m", 180, minutes), ("hour", "h", 336, minutes // 60)):
        number, _, rest = stats[name].partition(" ")
        moved = {name: f"{int(number) - step} {rest}"}
        old = [field for field in stats if field[0] == ring and field[1:].isdigit()]
        for field in old:
            number, _, rest = stats[field].partition(" ")
            moved[f"{ring}{(int(number) - step) % most}"] = f"{int(number) - step} {rest}"
        if old:
            client.hdel(keys["stats"], *old)
        client.hset(keys["stats"], mapping=moved)
