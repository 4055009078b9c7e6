"""The order in which a consumer asks its queues."""

from __future__ import annotations

import pytest

from django_srq.consumer.subscription import Rotation, Subscription


def subscriptions(make_queue, *weights):
    return [Subscription(make_queue(str(number)), print, weight=weight) for number, weight in enumerate(weights)]


def test_without_weights_the_order_stays(make_queue):
    given = subscriptions(make_queue, None, None)
    turns = Rotation(given)
    assert [turns.next() for _ in range(3)] == [given] * 3


@pytest.mark.parametrize("weights", [(5, 1), (1, 5), (3, 2, 1), (1, 1, None)])
def test_weights_are_the_shares_of_the_first_place(make_queue, weights):
    given = subscriptions(make_queue, *weights)
    turns = Rotation(given)
    total = sum(weight or 1 for weight in weights)
    first = [turns.next()[0] for _ in range(2 * total)]
    assert [first.count(subscription) for subscription in given] == [2 * (weight or 1) for weight in weights]
    assert first[:total] == first[total:]


def test_each_round_asks_every_subscription(make_queue):
    given = subscriptions(make_queue, 5, 1, 1)
    turns = Rotation(given)
    assert all(set(turns.next()) == set(given) for _ in range(10))


def test_the_queue_of_a_wake_token_is_asked_first(make_queue):
    given = subscriptions(make_queue, None, None, None)
    assert Rotation(given).next(given[2]) == [given[2], given[0], given[1]]
