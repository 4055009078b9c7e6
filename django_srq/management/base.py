"""What the srq_ commands have in common: exit codes, errors of one line, and the layout of their help."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
    OutputWrapper,
    SystemCheckError,
)

from django_srq import queues
from django_srq.exceptions import ConfigurationError, OutcomeUnknown, QueueUnavailable, SRQError, UnknownQueue
from django_srq.registry import Queue

# The exit codes, besides 0; docs/reference/commands.md describes them.
ERROR, USAGE, UNHEALTHY, UNREACHABLE, INTERRUPTED, TERMINATED = 1, 2, 3, 69, 130, 143

# What --help says of the codes that every command can give.
EXIT_CODES = {
    0: "done",
    ERROR: "an error, told in one line; --traceback tells more",
    USAGE: "wrong usage, unknown queue or wrong settings",
    UNREACHABLE: "a server cannot be reached",
    INTERRUPTED: "stopped by Ctrl-C",
}


class HelpFormatter(DjangoHelpFormatter):
    """Adds defaults to the options' help, and keeps the lines of the epilog."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.help is None or "default" in action.help
        if told or action.default in (None, argparse.SUPPRESS) or isinstance(action.default, bool):
            return action.help
        return f"{action.help} (default: %(default)s)"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        return "\n".join(textwrap.fill(line, width, subsequent_indent=" " * 7) for line in text.splitlines())


class StandardOutput(OutputWrapper):
    """Escapes characters that it cannot encode. Its errors name standard output."""

    def write(  # type: ignore[override]
        self, msg: str = "", style_func: Callable[[str], str] | None = None, ending: str | None = None
    ) -> None:
        with _naming_standard_output():
            if self._out is None:  # closed before Python began
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            try:
                super().write(msg, style_func, ending)
            except UnicodeEncodeError as error:
                escaped = msg.encode(error.encoding, "backslashreplace").decode(error.encoding)
                super().write(escaped, style_func, ending)

    def flush(self) -> None:
        with _naming_standard_output():
            super().flush()


@contextmanager
def _naming_standard_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"standard output: {error.strerror}") from error


class QueueCommand(BaseCommand):
    """A command that takes aliases of queues. Results go to stdout, everything else to stderr."""

    requires_system_checks = []  # a misconfigured queue fails on use, and does not stop a command for others
    examples: Sequence[str] = ()  # arguments of the command
    exit_codes: Mapping[int, str] = {}  # besides EXIT_CODES, or what these say of this command
    other_codes: frozenset[int] = frozenset()  # those of EXIT_CODES with which this command never ends
    done: str  # so far; added to the text of an error

    def __init__(self, stdout: TextIO | None = None, stderr: TextIO | None = None, *colours: Any, **rest: Any) -> None:
        nowhere = None if stderr or sys.stderr else open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
        super().__init__(stdout, stderr or sys.stderr or nowhere, *colours, **rest)
        self.stdout = StandardOutput(stdout or sys.stdout)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs = {"formatter_class": HelpFormatter, "epilog": self._epilog(), **kwargs}
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        # Allows options between the queue and the payloads.
        parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
        return parser

    @classmethod
    def all_exit_codes(cls) -> dict[int, str]:
        """What each code says with which the command may end."""
        codes = {**EXIT_CODES, **cls.exit_codes}
        return {code: codes[code] for code in sorted(codes) if code not in cls.other_codes}

    def _epilog(self) -> str:
        lines = [*(f"  %(prog)s {example}" for example in self.examples), "", "exit codes:"]
        return "\n".join(["examples:", *lines, *(f"{code:5}  {text}" for code, text in self.all_exit_codes().items())])

    def execute(self, *args: Any, **options: Any) -> str | None:
        if os.environ.get("NO_COLOR") and not options.get("force_color"):
            options["no_color"] = True
        self.done = ""
        try:
            output = super().execute(*args, **options)
            self.stdout.flush()
            return output
        except SystemCheckError as error:
            error.returncode = USAGE
            raise
        except (SRQError, OSError, KeyboardInterrupt) as error:
            said = "Stopped" if isinstance(error, KeyboardInterrupt) else str(error)
            raise CommandError("; ".join(filter(None, [said, self.done])), returncode=exit_code(error)) from error

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            super().run_from_argv(argv)
        finally:
            _drop_what_cannot_be_written()

    def queue(self, alias: str) -> Queue:
        """The queue of this alias. Raises UnknownQueue, which names the known ones and becomes exit code 2."""
        return queues[alias]


def _drop_what_cannot_be_written() -> None:
    """Python flushes standard output again at exit; a failure there would print an error and change the exit code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, UnknownQueue):
        return USAGE
    if isinstance(error, QueueUnavailable | OutcomeUnknown):
        return UNREACHABLE
    return USAGE if isinstance(error, ConfigurationError) else ERROR
