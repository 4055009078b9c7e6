"""A backend for Django's tasks (``django.tasks``), which needs Django 6.0; this module itself can be imported on any.

Its names are imported when they are first used: other packages import the module ``tasks`` of each installed app, on
every Django.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import django
from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from django_srq.exceptions import Discard, Reject, RetryLater
    from django_srq.queue.backoff import Backoff
    from django_srq.tasks.backend import SRQBackend
    from django_srq.tasks.dummy import DummyBackend
    from django_srq.tasks.exceptions import TaskCancelled, TaskTimeout
    from django_srq.tasks.immediate import ImmediateBackend
    from django_srq.tasks.task import SRQTask

__all__ = [
    "Backoff",
    "Discard",
    "DummyBackend",
    "ImmediateBackend",
    "Reject",
    "RetryLater",
    "SRQBackend",
    "SRQTask",
    "TaskCancelled",
    "TaskTimeout",
]

_MODULES = {
    "Backoff": "django_srq.queue.backoff",
    "Discard": "django_srq.exceptions",
    "DummyBackend": "django_srq.tasks.dummy",
    "ImmediateBackend": "django_srq.tasks.immediate",
    "Reject": "django_srq.exceptions",
    "RetryLater": "django_srq.exceptions",
    "SRQBackend": "django_srq.tasks.backend",
    "SRQTask": "django_srq.tasks.task",
    "TaskCancelled": "django_srq.tasks.exceptions",
    "TaskTimeout": "django_srq.tasks.exceptions",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if django.VERSION < (6, 0):
        installed = django.get_version()
        raise ImproperlyConfigured(
            f"django_srq.tasks.{name} needs Django 6.0 or later, and this is {installed}. "
            "With Django 5.2, give the queue a HANDLER in SRQ_QUEUES."
        )
    found = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found  # the next access is a plain one
    return found


def __dir__() -> list[str]:
    # Tools such as freezegun get each name that a module lists.
    return sorted({*globals(), *__all__} if django.VERSION >= (6, 0) else globals())
