"""Queues of tasks on the server under test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import django
import pytest

# Before Django 6.0 there are no tasks: test_import.py is about that.
if django.VERSION < (6, 0):
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_import.py"]


@pytest.fixture
def tasks(settings, server_url, prefix) -> Callable[..., None]:
    """Sets TASKS: ``tasks(queues=[…], ON_COMMIT=False, …)``. It is called once with the defaults."""

    def configure(queues: list[str] = ["default", "mail", "other"], **options: object) -> None:  # noqa: B006
        options = {"URL": server_url, "PREFIX": prefix + ".{alias}", **options}
        backend = "django_srq.tasks.SRQBackend"
        settings.TASKS = {"default": {"BACKEND": backend, "QUEUES": queues, "OPTIONS": options}}

    configure()
    return configure
