"""The errors keep their attributes when they are sent to another process."""

from __future__ import annotations

import copy
import pickle

import pytest

from django_srq import exceptions
from django_srq.exceptions import Discard, DuplicateItem, OutcomeUnknown, QueueUnavailable, Reject, RetryLater, SRQError

CLASSES = [
    value for value in vars(exceptions).values() if isinstance(value, type) and value.__module__ == exceptions.__name__
]
SPECIAL = {
    DuplicateItem: DuplicateItem("it is there", uid="own", state="ready"),
    RetryLater: RetryLater(60, "the bank is closed"),
    Discard: Discard("spam"),
    Reject: Reject("no such customer"),
}


def made(kind: type[Exception]) -> Exception:
    error = SPECIAL[kind] if kind in SPECIAL else kind("queue 'q': no")
    if isinstance(error, SRQError):
        error.put, error.in_doubt = ["one"], ["two"]
    return error


def test_this_file_covers_all_exceptions():
    assert {SRQError, QueueUnavailable, OutcomeUnknown, *SPECIAL} <= set(CLASSES)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_pickling_and_copying(kind, again):
    error = made(kind)
    copied = again(error)
    assert type(copied) is kind
    assert (str(copied), copied.args, vars(copied)) == (str(error), error.args, vars(error))


def test_retry_later_without_a_reason_names_the_delay():
    assert str(pickle.loads(pickle.dumps(RetryLater(60)))) == "again in 60 s"
