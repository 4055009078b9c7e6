"""The time of the server. Its clock cannot be changed, so a test moves the stored times of a queue instead."""

from __future__ import annotations

import re

import redis

from django_srq.operations import Keys


def now(client: redis.Redis) -> int:
    """The server's time (ms)."""
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def pass_time(client: redis.Redis, keys: Keys, seconds: float) -> None:
    """Move deadlines and due times into the past; a negative deadline ends without a recovery of the item.

    The queue's last call moves with them, so the time does not look like an outage of all consumers.
    """
    # Before the leases: a call in between would find them ended soon after an outage, and leave them to their holders.
    for moment in ("silent", "quiet", "restarted"):
        if client.hexists(keys["meta"], moment):
            client.hincrby(keys["meta"], moment, -round(seconds * 1000))
    for key in ("leases", "delayed", "uniques", "finished"):
        scores = client.zrange(keys[key], 0, -1, withscores=True)
        moved = {uid: score - seconds * 1000 if score > 0 else score + seconds * 1000 for uid, score in scores}
        if moved:
            client.zadd(keys[key], moved)
    for field, known in client.hscan_iter(keys["slots"]):
        if known.startswith(b"0 "):  # not a slot's outcome, but facts about a consumer, with times
            earlier = re.sub(rb"\b\d{13}\b", lambda moment: b"%d" % (int(moment[0]) - round(seconds * 1000)), known)
            client.hset(keys["slots"], field, earlier)


def pass_minutes(client: redis.Redis, keys: Keys, minutes: int) -> None:
    """Move the time series of a queue back by so many minutes."""
    client.hincrby(keys["meta"], "minute", -minutes)
    stats = {name.decode(): value.decode() for name, value in client.hgetall(keys["stats"]).items()}
    for name, ring, most, step in (("minute", "m", 180, minutes), ("hour", "h", 336, minutes // 60)):
        number, _, rest = stats[name].partition(" ")
        moved = {name: f"{int(number) - step} {rest}"}
        old = [field for field in stats if field.rstrip("0123456789") in (ring, f"p{ring}")]
        for field in old:
            number, _, rest = stats[field].partition(" ")
            moved[f"{field.rstrip('0123456789')}{(int(number) - step) % most}"] = f"{int(number) - step} {rest}"
        if old:
            client.hdel(keys["stats"], *old)
        client.hset(keys["stats"], mapping=moved)
