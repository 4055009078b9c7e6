"""The call of a handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync
from django.db import close_old_connections, reset_queries

from django_srq.item import Item


def adapted(handler: Callable[..., Any]) -> Callable[[Item], None]:
    """A user's handler as a function of the item: it gets the payload, and the item if its signature names that."""
    wants_item = _names_item(handler)
    call = async_to_sync(handler) if inspect.iscoroutinefunction(handler) else handler

    def handle(item: Item) -> None:
        if wants_item:
            call(item.payload, item=item)
        else:
            call(item.payload)

    return handle


def with_fresh_connections(handle: Callable[[Item], object]) -> Callable[[Item], None]:
    """Close database connections that are broken or too old before and after, in the thread that runs the handler.

    Django does so around a request.
    """

    def handle_between(item: Item) -> None:
        reset_queries()
        close_old_connections()
        try:
            handle(item)
        finally:
            close_old_connections()

    return handle_between


def _names_item(handler: Callable[..., Any]) -> bool:
    try:
        named = inspect.signature(handler).parameters.get("item")
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    # As the only parameter it is the payload's name.
    return named is not None and next(iter(inspect.signature(handler).parameters)) != "item"
