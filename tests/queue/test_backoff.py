"""The time that a failed item waits."""

from __future__ import annotations

import pytest

from django_srq.queue.backoff import Backoff


@pytest.mark.parametrize(("deliveries", "full"), [(0, 1), (1, 1), (2, 3), (3, 9), (4, 20), (10**6, 20)])
def test_grows_by_its_factor_up_to_the_maximum(deliveries, full):
    backoff = Backoff(base=1, factor=3, max=20)
    delays = [backoff.delay(deliveries) for _ in range(200)]
    assert full / 2 <= min(delays)
    assert max(delays) <= full


@pytest.mark.parametrize("factor", [1e9, 10**9])
def test_large_factor_overflows_nothing(factor):
    assert 10 <= Backoff(factor=factor, max=20).delay(500) <= 20


def test_spreads_items_that_failed_together():
    delays = [Backoff(base=100).delay(1) for _ in range(200)]
    assert max(delays) - min(delays) > 25


def test_factor_one_waits_as_long_each_time():
    assert Backoff(base=4, factor=1).delay(50) <= 4
