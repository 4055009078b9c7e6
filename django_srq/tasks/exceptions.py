"""The errors of tasks that no code of the project raised: ``TaskError.exception_class`` is one of these."""

from __future__ import annotations

import builtins
import sys

from django_srq import exceptions
from django_srq.consumer.runner import Exhausted as Exhausted
from django_srq.consumer.runner import TaskTimeout as TaskTimeout


class TaskCancelled(Exception):
    """``SRQBackend.cancel`` took the task out of its queue before it ran."""


class Crashed(Exception):
    """The process that ran the task died."""


class ConsumerLost(Exception):
    """The consumer that had the task was lost with its host, or stopped, and the lease ended."""


class LeaseEnded(Exception):
    """A program took the task with ``get``, and did not settle it before the lease ended."""


class Failed(Exception):
    """A program failed the task with ``fail``, and gave a text or nothing for the error."""


def path_of(name: str) -> str:
    """The dotted path of an error's class, by the name that the record of the error has."""
    if "." in name:
        return name
    for module in (builtins, sys.modules[__name__], exceptions):
        kind = getattr(module, name, None)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            return f"{module.__name__}.{name}"
    return f"{__name__}.Failed"
