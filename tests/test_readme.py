"""The README says what the code does: its tables are those of the code, its example runs as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import BaseCommand

import django_srq
from django_srq import SRQError, conf, operations, urls
from django_srq.conf import QueueConfig
from django_srq.management.commands import srq_consume
from django_srq.models import QueueStatus

pytestmark = pytest.mark.versions

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def rows(heading: str, column: int = 0) -> dict[str, str]:
    """First code words of the rows of a section's tables, with the cell of another column."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[column] if len(row) > column else "" for row in cells}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_commands_are_demo_and_test():
    assert blocks("console")[0].split("\n")[:2] == ["$ make demo", "$ make test"]


def test_options_and_defaults():
    documented = rows("Settings", 2)
    assert list(documented) == list(conf._OPTIONS)
    defaults = {field.name.upper(): field.default for field in fields(QueueConfig)}
    for name in ("AUTOCLEAN_INTERVAL", "LEASE", "MAX_DELIVERIES", "MAX_CRASHES", "MAX_PAYLOAD_BYTES", "MAX_AGE"):
        assert float(documented[name].strip("`")) == defaults[name]


def test_options_of_the_status_view():
    documented = rows("The status view", 2)
    options = [name for name in documented if name.isupper()]
    assert options == list(conf._ADMIN_OPTIONS)
    assert float(documented["TIMEOUT"].strip("`")) == conf.AdminConfig().timeout
    assert tuple(documented["REDACT"].split(", ")) == conf.REDACT


def test_permissions_and_views():
    documented = list(rows("The status view"))
    assert {name for name, _label in QueueStatus._meta.permissions} <= set(documented)
    assert {str(pattern.pattern) for pattern in urls.urlpatterns} <= set(documented)


def test_keys():
    assert {name.strip(":"): kind for name, kind in rows("Keys", 1).items()} == operations.key_types()


def test_exceptions_and_what_else_they_are():
    named = {
        name: getattr(django_srq, name) for name in django_srq.__all__ if isinstance(getattr(django_srq, name), type)
    }
    errors = {name: kind for name, kind in named.items() if issubclass(kind, SRQError) and kind is not SRQError}
    documented = rows("Exceptions", 1)
    assert set(documented) == set(errors)
    assert issubclass(errors["ConfigurationError"], ImproperlyConfigured)
    for name, also in documented.items():
        if also.strip("` ") in errors:
            assert issubclass(errors[name], errors[also.strip("` ")])


def test_commands():
    documented = {name.split()[0] for name in rows("Commands") if name.startswith("srq_")}
    folder = Path(django_srq.__file__).parent / "management" / "commands"
    assert documented == {path.stem for path in folder.glob("srq_*.py")}


def test_methods_exist():
    for cell in rows("Queues"):
        for name in re.findall(r"(\w+)\(", cell):
            assert name == "len" or hasattr(django_srq.registry.Queue, name), name


@pytest.fixture
def project(tmp_path):
    """The example's files, in a project that has nothing else."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    for block in blocks("python"):
        if match := re.match(r"# (\S+\.py)\n", block):
            (tmp_path / match[1]).write_text(block)
    with (tmp_path / "settings.py").open("a") as settings:
        settings.write(
            "\nfrom pathlib import Path\nBASE_DIR = Path(__file__).parent\nSECRET_KEY = 'x'\nUSE_TZ = True\n"
            "SRQ_QUEUES['test'] = {'URL': 'embedded://', 'SERIALIZER': 'raw'}\nROOT_URLCONF = 'urls'\n"
            "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': BASE_DIR / 'db'}}\n"
        )
    (tmp_path / "urls.py").write_text(
        "from django.urls import path\nfrom shop.views import order\nurlpatterns = [path('order', order)]\n"
    )
    (tmp_path / "manage.py").write_text(
        "import os, sys\nos.environ['DJANGO_SETTINGS_MODULE'] = 'settings'\n"
        "from django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)\n"
    )
    return tmp_path


def shell(project: Path, command: str) -> str:
    root = str(Path(django_srq.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    done = subprocess.run(
        command, shell=True, cwd=project, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_runs_as_written(project):
    post = (
        "import django; django.setup(); from django.test import Client; "
        "print(Client(headers={'host': 'localhost'}).post('/order', {'order': 17}).content.decode())"
    )
    uid = shell(project, f'DJANGO_SETTINGS_MODULE=settings python -c "{post}"').strip()
    assert len(uid) == 36
    assert shell(project, "python manage.py srq_consume --burst") == "order 17, delivery 1\n"


def test_the_raw_queue_s_commands_run_as_written(project):
    put, consume = (
        line[2:] for block in blocks("console") for line in block.splitlines() if " test" in line and "manage" in line
    )
    uid = shell(project, put).strip()
    assert shell(project, consume) == f"{uid} Hello World\n"


def test_options_of_srq_consume():
    """Each is in the table, and so is nothing else."""
    actions = srq_consume.Command().create_parser("manage.py", "srq_consume")._actions
    general = {action.dest for action in BaseCommand().create_parser("manage.py", "x")._actions}
    options = {action.option_strings[-1] for action in actions if action.option_strings and action.dest not in general}
    documented = {name.split()[0] for name in rows("Commands") if name.startswith("--")}
    assert documented == options
