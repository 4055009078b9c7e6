"""The directive ``command-help``: the help text of a command, as ``manage.py COMMAND --help`` prints it.

The options that all commands of Django have are left out, and the line of ``--help`` itself.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from unittest import mock

from django.core.management import BaseCommand
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from django_srq.management import commands

WIDTH = "80"  # columns


def help_of(name: str) -> str:
    parser = import_module(f"{commands.__name__}.{name}").Command(no_color=True).create_parser("manage.py", name)
    general = {action.dest for action in _actions_of(BaseCommand().create_parser("manage.py", ""))}
    for action in _actions_of(parser):
        if action.dest in general:
            action.help = argparse.SUPPRESS
    with mock.patch.dict("os.environ", COLUMNS=WIDTH):
        text: str = parser.format_help()
    return text


def _actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions  # noqa: SLF001 (argparse has no public list of them)


class CommandHelp(Directive):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        text = help_of(name)
        self.state.document.settings.env.note_dependency(import_module(f"{commands.__name__}.{name}").__file__)
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
