"""After the commit: something is done when all transactions that this thread has open have committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction

Databases = bool | str | tuple[str, ...]  # True: all databases; False: none; else an alias, or several


class OfThread:
    """An effect (``transport/sansio.py``): calls a function in the thread whose database connections are meant.

    For a call in an event loop that is the thread in which ``sync_to_async`` runs code.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._function, self._arguments = function, arguments

    def carry_out(self) -> Any:
        return self._function(*self._arguments)

    async def acarry_out(self) -> Any:
        return await sync_to_async(self._function, thread_sensitive=True)(*self._arguments)


def in_transaction(databases: Databases) -> list[Any]:
    """The connections of this thread to these databases that are in a transaction."""
    # Of all databases, only connections that exist already can be in one.
    if isinstance(databases, bool):
        some: Sequence[Any] = connections.all(initialized_only=True) if databases else ()
    else:
        some = [connections[alias] for alias in ((databases,) if isinstance(databases, str) else databases)]
    return [connection for connection in some if _is_in_transaction(connection)]


def after(waiting: Sequence[Any], then: Callable[[], object], robust: bool) -> None:
    """Call ``then`` when the transactions of these connections have committed.

    If one of them rolls back, or in one of them the block that is open now, it is never called. robust: Django logs an
    error of ``then``, and calls the hooks after it; else the commit raises it, and later hooks are not called.
    """
    left = len(waiting)

    def committed() -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    # One on each connection. A hook on one of them that looks at the others when it is called would not do: by then
    # another one may have rolled back.
    for connection in waiting:
        connection.on_commit(committed, robust=robust)


def _is_in_transaction(connection: Any) -> bool:
    if connection.in_atomic_block:
        return True
    if connection.connection is not None and not connection.autocommit:
        raise transaction.TransactionManagementError(
            f"A task cannot wait for the commit while autocommit of the database {connection.alias!r} is off: nothing "
            "tells when its transaction commits. Set ON_COMMIT to False, or to the other databases."
        )
    return False
