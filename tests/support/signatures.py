"""Handlers with all kinds of signatures. Each name says whether srq_consume can call it."""

from __future__ import annotations

import functools

from django.db import transaction

from django_srq import Item


def other_name(payload, job): ...
def no_payload(): ...
def too_many(payload, item, job): ...
def only_by_name(*, payload): ...
def item_by_position(payload, item, /): ...
def other_names(payloads, jobs): ...


class NeedsJob:
    def __call__(self, payload, job): ...

    def method(self, payload, job): ...


needs_job, method_that_needs_job = NeedsJob(), NeedsJob().method


async def other_name_async(payload, job): ...


def with_job(function):
    """A decorator that passes a second argument on."""

    @functools.wraps(function)
    def wrapper(payload):
        return function(payload, job=5)

    return wrapper


def plain(payload): ...
def with_item(payload, item): ...
def with_item_by_name(payload, *, item): ...
def with_default(payload, job=None): ...
def with_any(*args, **kwargs): ...
def item_alone(item): ...
def with_items(payloads, items): ...


@transaction.atomic
def decorated(payload, item): ...


@with_job
def gets_a_job(payload, job): ...


class Good:
    def __init__(self, payload, item=None): ...

    def __call__(self, payload, item: Item): ...

    async def method(self, payload): ...

    @staticmethod
    def static(payload): ...

    @classmethod
    def of_class(cls, payload): ...


good, good_method, static, of_class = Good(5), Good(5).method, Good.static, Good.of_class
partial_by_name = functools.partial(other_name, job=5)
partial_by_position = functools.partial(other_name, 5)


async def asynchronous(payload, item): ...


FIT = [
    "plain", "with_item", "with_item_by_name", "with_default", "with_any", "item_alone", "decorated", "gets_a_job",
    "Good", "good", "good_method", "static", "of_class", "partial_by_name", "partial_by_position", "asynchronous",
]  # fmt: skip
BUILTINS = ["builtins.print", "builtins.dict", "builtins.type", "builtins.len", "operator.itemgetter", "time.sleep"]
