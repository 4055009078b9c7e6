"""After the commit: something is done when all transactions that this thread has open have committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction

Databases = bool | str | tuple[str, ...]


class AfterCommit:
    """An effect (``transport/sansio.py``): has ``then`` called after the transactions that are open now.

    Its result says whether there are any; if there are none, nothing is called. If one of them rolls back, or the
    block within it in which this is carried out, ``then`` is never called. In an event loop, the transactions are those
    of the thread in which ``sync_to_async`` runs code.
    """

    def __init__(self, then: Callable[[], object], databases: Databases) -> None:
        """databases: the aliases of those whose transactions are meant; True: of all; False: of none."""
        self._then = then
        self._databases = databases

    def carry_out(self) -> bool:
        if self._databases is False:
            return False
        waiting = [connection for connection in _connections(self._databases) if _is_in_transaction(connection)]
        if not waiting:
            return False
        left = len(waiting)

        def committed() -> None:
            nonlocal left
            left -= 1
            if not left:
                self._then()

        # One on each connection. A hook on one of them that looks at the others when it is called would not do: by
        # then another one may have rolled back.
        for connection in waiting:
            connection.on_commit(committed)
        return True

    async def acarry_out(self) -> bool:
        return self._databases is not False and await sync_to_async(self.carry_out, thread_sensitive=True)()


def _connections(databases: Databases) -> Sequence[Any]:
    """The connections of this thread to these databases. Of all databases, only a connection that exists already can
    be in a transaction."""
    if isinstance(databases, bool):
        return connections.all(initialized_only=True)
    return [connections[alias] for alias in ((databases,) if isinstance(databases, str) else databases)]


def _is_in_transaction(connection: Any) -> bool:
    if connection.in_atomic_block:
        return True
    if connection.connection is not None and not connection.autocommit:
        raise transaction.TransactionManagementError(
            f"Tasks cannot be enqueued on commit while autocommit of the database {connection.alias!r} is off: nothing "
            "tells when its transaction commits. Set ON_COMMIT to False, or to the other databases."
        )
    return False
