"""What the srq_ commands have in common: exit codes, and one line of error."""

from __future__ import annotations

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_srq import queues
from django_srq.exceptions import ConfigurationError, OutcomeUnknown, QueueUnavailable, SRQError, UnknownQueue
from django_srq.registry import Queue

# As documented; 0 is done or stopped gracefully, 143 a second SIGTERM.
ERROR, USAGE, UNHEALTHY, UNREACHABLE, INTERRUPTED = 1, 2, 3, 69, 130


class QueueCommand(BaseCommand):
    """A command that speaks of queues by alias. Results go to stdout, all else to stderr."""

    requires_system_checks = ["django_srq"]
    done = ""  # what was done before an error; said with it

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        # So that options may stand between queue and payloads.
        parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        if os.environ.get("NO_COLOR") and not options.get("force_color"):
            options["no_color"] = True
        try:
            return super().execute(*args, **options)
        except SRQError as error:
            raise CommandError("; ".join(filter(None, [str(error), self.done])), returncode=exit_code(error)) from error

    def queue(self, alias: str) -> Queue:
        """The queue; exits with 2, naming the known ones, when there is none of that alias."""
        return queues[alias]


def exit_code(error: SRQError) -> int:
    if isinstance(error, UnknownQueue):
        return USAGE
    if isinstance(error, QueueUnavailable | OutcomeUnknown):
        return UNREACHABLE
    return USAGE if isinstance(error, ConfigurationError) else ERROR
