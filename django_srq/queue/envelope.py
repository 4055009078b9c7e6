"""The form of a task's payload, for those who only look at it: the view, and a consumer that is not for tasks."""

from __future__ import annotations

from collections.abc import Mapping


def is_envelope(payload: object) -> bool:
    """Whether a decoded payload has the form of a task's. It never decides whether a queue is for tasks."""
    return (
        isinstance(payload, Mapping)
        and isinstance(payload.get("task"), str)
        and isinstance(payload.get("args"), list)
        and isinstance(payload.get("kwargs"), Mapping)
    )
