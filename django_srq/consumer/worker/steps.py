"""The steps that the buffer gives to the threads of a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from django_srq.consumer.subscription import Kind, Subscription
from django_srq.consumer.worker.job import FinishedJob, Job
from django_srq.transport.stream import Sent


class Handle(NamedTuple):
    """A thread's next step: send these acks, then handle the jobs together. Without jobs the thread ends."""

    jobs: Sequence[Job]
    acks: Sequence[tuple[Subscription, Sent[Any]]]


class Lead(NamedTuple):
    """A thread's next step: be the leader. Claim for all threads that have no job."""

    finished: Sequence[FinishedJob]  # to be acked
    needed: dict[Kind, int]  # threads without a job
    woken: Subscription | None  # its wake token was taken


class Wait(NamedTuple):
    """A thread's next step: be the idler. Wait for items on the server."""

    seconds: float
    subscriptions: Sequence[Subscription]  # to wait for: those whose servers are there
    n: int  # items to claim behind the wait; 0: none


class Rest(NamedTuple):
    """A thread's next step: call ``on_idle``, as there is nothing to do for now."""


Step = Handle | Lead | Wait | Rest


class WaitResult(NamedTuple):
    """The result of a wait on the server."""

    woken: Subscription | None = None  # its wake token was taken
    ask: Sequence[Subscription] = ()  # to be asked at once
    unsure: bool = False  # the claim behind the wait may or may not have been carried out
    refused: bool = False  # the server was away, or refused the wait
