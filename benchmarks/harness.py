"""The frame of all measures: rows with their targets, contenders that take turns, and what a measure is given."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import redis

from django_srq import SafeRedisQueue
from tests.support.servers import Server

PAYLOAD = b"x" * 100


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 9  # how often contenders take turns
    requests: int = 3  # of a page, per turn
    calls: int = 1000  # of one kind, per round
    counted: int = 200  # calls whose round trips are counted
    idle: float = 25  # seconds that an idle consumer is watched
    hand_offs: int = 150  # per round, from a put to the handler
    items: int = 100_000  # whose memory is measured
    in_flight: Sequence[int] = (1000, 10_000, 100_000)  # items, from few to many
    waiting: Sequence[int] = (1000, 100_000, 1_000_000)
    race: int = 20_000  # items of a drain, for the fast ones; others get as many as take them as long
    race_rounds: int = 3
    starts: int = 5  # of a process, by each contender


QUICK = Sizes(
    rounds=3, requests=1, calls=100, counted=20, idle=2, hand_offs=20, items=20_000, in_flight=(200, 500, 2000),
    waiting=(200, 1000, 5000), race=1000, race_rounds=1, starts=1,
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """The most or the least that a figure may be; ``timed``: too noisy to be judged with few samples."""

    most: float | None = None
    timed: bool = True
    least: float | None = None

    def __str__(self) -> str:
        return f"≤ {self.most:g}" if self.least is None else f"≥ {self.least:g}"

    def reached(self, figure: float) -> bool:
        return (self.most is None or figure <= self.most) and (self.least is None or figure >= self.least)


@dataclass(frozen=True)
class Row:
    """One measure: a value per round, and the same of what it is compared with, taken in the same rounds."""

    measure: str
    values: Sequence[float]
    unit: str
    against: str = ""
    reference: Sequence[float] = ()
    target: Target | None = None
    note: str = ""  # why there are no values

    @property
    def figures(self) -> Sequence[float]:
        """What the target is about, per round: the ratio, or without a reference the value."""
        if not self.reference:
            return self.values
        pairs = zip(self.values, self.reference, strict=True)
        return [value / other if other else float("inf") for value, other in pairs]

    @property
    def figure(self) -> float:
        return statistics.median(self.figures) if self.values else float("nan")

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the figure."""
        if len(self.figures) < 2:
            return self.figure, self.figure
        low, _, high = statistics.quantiles(self.figures, n=4, method="inclusive")
        return low, high

    def reached(self, sizes: Sizes) -> bool | None:
        """None: there is no target, or it is not judged at these sizes."""
        if self.target is None or not self.values or (self.target.timed and sizes is QUICK):
            return None
        return self.target.reached(self.figure)


@dataclass
class Bench:
    """What a measure is given: a server of its own, how much to measure, and queues."""

    server: Server
    sizes: Sizes
    control: redis.Redis = field(init=False)  # for looking at the server, never measured

    def __post_init__(self) -> None:
        self.control = self.server.client(decode_responses=True)

    def queue(self, url: str = "") -> SafeRedisQueue:
        """A new queue, over a connection of its own; its leases outlast any measure."""
        return SafeRedisQueue(name=uuid.uuid4().hex, url=url or self.server.url, autoclean_interval=3600)

    def clear(self) -> None:
        """Empty the server, which is ours, and wait until its memory is free."""
        self.control.execute_command("FLUSHALL", "SYNC")


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Let each contender measure once a round; who begins changes each time. The first round is not counted."""
    names = list(contenders)
    values: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        start = turn % len(names)
        for name in (*names[start:], *names[:start]):
            value = contenders[name]()
            if turn:
                values[name].append(value)
    return values
