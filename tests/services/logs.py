"""A log handler that queries the databases, in the supervisor too."""

from __future__ import annotations

import logging

from django.db import connections


class AskingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        for alias in connections:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT name FROM numbers WHERE n = 0")
                cursor.fetchall()
