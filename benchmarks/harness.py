"""The frame of all measures: rows with targets, contenders that take turns, and the server and queues of a measure."""

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
    """How much a full run measures."""

    rounds: int = 9  # how often contenders take turns
    requests: int = 3  # of a page, per turn
    calls: int = 1000  # of each kind, per round
    counted: int = 200  # calls whose round trips are counted
    idle: float = 25  # seconds that an idle consumer is watched
    hand_offs: int = 150  # items handed from a put to a waiting handler, per round
    items: int = 100_000  # to measure the memory with
    in_flight: Sequence[int] = (1000, 10_000, 100_000)  # items, from few to many
    waiting: Sequence[int] = (1000, 100_000, 1_000_000)
    race: int = 20_000  # items to drain; slow contenders get fewer, so that each takes about as long
    race_rounds: int = 3
    starts: int = 5  # of each process, by each contender


QUICK = Sizes(
    rounds=2, requests=1, calls=60, counted=20, idle=2, hand_offs=10, items=20_000, in_flight=(200, 500, 2000),
    waiting=(200, 1000, 5000), race=1000, race_rounds=1, starts=1,
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """The most or the least that a figure may be; ``timed``: it varies too much to be judged with few samples."""

    most: float | None = None
    timed: bool = True
    least: float | None = None

    def __str__(self) -> str:
        return f"≤ {self.most:g}" if self.least is None else f"≥ {self.least:g}"

    def reached(self, figure: float) -> bool:
        return (self.most is None or figure <= self.most) and (self.least is None or figure >= self.least)


@dataclass(frozen=True)
class Row:
    """One measure: a value per round, and the values of its reference in the same rounds."""

    measure: str
    values: Sequence[float]
    unit: str
    against: str = ""
    reference: Sequence[float] = ()
    target: Target | None = None
    note: str = ""  # why there are no values

    @property
    def figures(self) -> Sequence[float]:
        """The figures that the target judges, one per round: the ratio to the reference, else the value itself."""
        if not self.reference:
            return self.values
        pairs = zip(self.values, self.reference, strict=True)
        return [value / other if other else float("inf") for value, other in pairs]

    @property
    def figure(self) -> float:
        return statistics.median(self.figures) if self.values else float("nan")

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the figures."""
        if len(self.figures) < 2:
            return self.figure, self.figure
        low, _, high = statistics.quantiles(self.figures, n=4, method="inclusive")
        return low, high

    def reached(self, sizes: Sizes) -> bool | None:
        """Whether the target is reached; None: there is no target, or these sizes are too small to judge it."""
        if self.target is None or not self.values or (self.target.timed and sizes is QUICK):
            return None
        return self.target.reached(self.figure)


@dataclass
class Bench:
    """The surroundings of a measure: a server of its own, the sizes, and queues."""

    server: Server
    sizes: Sizes
    control: redis.Redis = field(init=False)  # to look at the server; its calls are not measured

    def __post_init__(self) -> None:
        self.control = self.server.client(decode_responses=True)

    def queue(self, url: str = "") -> SafeRedisQueue:
        """A new queue with connections of its own; its leases outlast any measure."""
        return SafeRedisQueue(name=uuid.uuid4().hex, url=url or self.server.url, autoclean_interval=3600)

    def clear(self) -> None:
        """Empty the server, which belongs to the benchmark, and wait until its memory is free."""
        self.control.execute_command("FLUSHALL", "SYNC")


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Let each contender measure once a round; the first one changes each time. The first round is not counted."""
    names = list(contenders)
    values: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        start = turn % len(names)
        for name in (*names[start:], *names[:start]):
            value = contenders[name]()
            if turn:
                values[name].append(value)
    return values
