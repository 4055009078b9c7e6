"""Who may do what: Django's permissions, the read-only switch, and the project's rules for single queues."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from django.http import HttpRequest

from django_srq import conf
from django_srq.runtime.completion import drop

logger = logging.getLogger("django_srq.status")

# The permissions of the model QueueStatus, without the app's name.
LOOKS = ("view", "view_payload")
CHANGES = ("requeue", "drop", "purge", "pause", "release", "put")


def may(request: HttpRequest, action: str, alias: str | None = None) -> bool:
    """Whether the user may take this action on a queue; alias None: on queues in general, without asking ``ALLOW``.

    Every action needs the permission ``view`` too.
    """
    admin = conf.load().admin
    user = request.user
    if action in CHANGES and admin.read_only:
        return False
    if not user.is_active or not user.has_perm("django_srq.view") or not user.has_perm(f"django_srq.{action}"):
        return False
    allow = admin.load_allow() if alias is not None else None
    return allow is None or all(_says_yes(allow(request, asked, alias)) for asked in dict.fromkeys(("view", action)))


def _says_yes(answer: Any) -> bool:
    """Only True allows. Another value that counts as true may be a mistake, such as a coroutine that nobody awaited."""
    if answer is not True and answer:
        drop(answer)
        _log_once(type(answer).__name__)
    return answer is True


@cache
def _log_once(kind: str) -> None:
    logger.warning("SRQ_ADMIN['ALLOW'] returned neither True nor False, denying access type=%s", kind)


def rights(request: HttpRequest, alias: str) -> Mapping[str, bool]:
    """What the user may do to a queue."""
    return {action: may(request, action, alias) for action in (*LOOKS, *CHANGES)}


def visible_queues(request: HttpRequest) -> list[str]:
    """The aliases of the queues that the user may view."""
    return [alias for alias in conf.aliases() if may(request, "view", alias)]
