"""--help of every command: the default of each option, examples and exit codes."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from pathlib import Path

import pytest

from django_srq.management import commands
from django_srq.management.base import QueueCommand
from tests.support.project import ROOT

NAMES = sorted(path.stem for path in Path(commands.__path__[0]).glob("srq_*.py"))
CODES = {name: {0, 1, 2, 69, 130} for name in NAMES}
CODES["srq_consume"] = CODES["srq_consume"] - {69} | {75, 143}  # it waits for a server that is away
CODES["srq_status"] |= {3, 143}


def parser_of(name: str) -> argparse.ArgumentParser:
    command: QueueCommand = import_module(f"{commands.__name__}.{name}").Command()
    return command.create_parser("manage.py", name)


def told_codes(name: str) -> set[int]:
    epilog = parser_of(name).format_help().rpartition("exit codes:\n")[2]
    return {int(code) for code in re.findall(r"^ {2,4}(\d+)  \S", epilog, re.MULTILINE)}


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("name", NAMES)
def test_help_has_defaults_examples_and_exit_codes(name, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    parser = parser_of(name)
    text = parser.format_help()
    assert [line for line in text.splitlines() if len(line) > columns and f"manage.py {name}" not in line] == []
    assert max(map(len, text.splitlines())) <= 80
    assert told_codes(name) == CODES[name]
    examples = re.findall(rf"^  manage\.py {name}\b *(.*)$", text.partition("examples:\n")[2], re.MULTILINE)
    assert len(examples) >= 2
    whole = " ".join(text.split())
    for action in parser._actions:
        is_flag = action.nargs == 0 or action.required
        if is_flag or action.dest in ("settings", "pythonpath"):
            continue
        help_text = " ".join(parser._get_formatter()._expand_help(action).split())
        assert "default" in help_text, action.dest
        assert help_text in whole
        if isinstance(action.default, int | float | str):
            shown = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
            assert f"default: {shown}" in help_text, action.dest


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_arguments_of_the_command(name, settings):
    settings.SRQ_QUEUES = {alias: {} for alias in ("orders", "mail", "high", "low", "notes")}
    text = parser_of(name).format_help().partition("examples:\n")[2].partition("\n\n")[0]
    for line in text.splitlines():
        shell = re.sub(r" < \S+$", "", line.strip()).removeprefix(f"manage.py {name}")
        parser_of(name).parse_args([part.strip("'") for part in re.findall(r"'[^']*'|\S+", shell)])


def test_the_exit_codes_are_those_of_the_reference():
    page = (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8")
    table = page.partition("### Exit codes\n")[2].partition("\n## ")[0]
    documented = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in row.split(", ")}
    assert documented == set().union(*map(told_codes, NAMES))
