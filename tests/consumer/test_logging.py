"""Log records of srq_consume go to the handlers of the project, and to standard error only if there are none."""

from __future__ import annotations

import pytest

from django_srq import queues

TO_FILE = """
import logging, logging.config
class ToFile(logging.FileHandler):
    def __init__(self): super().__init__({path!r}); self.setFormatter(logging.Formatter("filed %(message)s"))
"""
ROOT = {"handlers": ["file"], "level": "INFO"}


def config(**parts: object) -> str:
    return repr({"version": 1, "handlers": {"file": {"()": "srq_settings.ToFile"}}, **parts})


# Code for the settings, with or without a handler for the records.
PROJECTS = {
    "nothing": ("", False),
    "LOGGING is None": ("LOGGING = None", False),
    "LOGGING_CONFIG is None": ("LOGGING_CONFIG = None", False),
    "another logger": (f"LOGGING = {config(loggers={'mine': ROOT})}", False),
    "no handler, only a level": ("logging.getLogger('django_srq').setLevel('INFO')", False),
    "root": (f"LOGGING = {config(root=ROOT)}", True),
    "django_srq": (f"LOGGING = {config(loggers={'django_srq': ROOT})}", True),
    "a part of it": (f"LOGGING = {config(loggers={'django_srq.consumer': ROOT})}", True),
    "basicConfig": ("logging.basicConfig(handlers=[ToFile()], level='INFO')", True),
    "by hand": (
        "LOGGING = None\nlogging.getLogger('django_srq.consumer').addHandler(ToFile())\n"
        "logging.getLogger('django_srq').setLevel('INFO')",
        True,
    ),
    "later": (
        "from django_srq.signals import consumer_started\n"
        "def begin(**kwargs): logging.basicConfig(handlers=[ToFile()])\n"
        "consumer_started.connect(begin)",
        True,
    ),
}


# Each project has a process of its own, which needs not import Django again.
EACH = """
import os, sys
from django.core import management
import django.db.backends.sqlite3.base, django.db.models, redis.asyncio
command = ["django-admin", "srq_consume", "note", "--max-items", "1", "--processes", sys.argv[1]]
for name in sys.argv[2:]:
    if not os.fork():
        os.dup2(os.open(f"err_{name}", os.O_WRONLY | os.O_CREAT), 2)
        os.environ["DJANGO_SETTINGS_MODULE"] = f"settings_{name}"
        management.execute_from_command_line(command)
        sys.exit(0)
    assert os.wait()[1] == 0, name
"""


@pytest.mark.parametrize(
    ("processes", "names"), [("0", [*PROJECTS]), ("1", ["nothing", "root", "a part of it", "later"])]
)
def test_records_go_once_to_the_handlers_of_the_project(project, processes, names):
    folder, given = project.folder, (project.folder / "srq_settings.py").read_text()
    numbers = [str(number) for number in range(len(names))]
    for name, number in zip(names, numbers, strict=True):
        code, _ = PROJECTS[name]
        (folder / f"filed_{number}").touch()
        code = (TO_FILE.format(path=str(folder / f"filed_{number}")) + code).replace(
            "srq_settings", f"settings_{number}"
        )
        (folder / f"settings_{number}.py").write_text(given + code)
    uids = queues["note"].put_many(numbers)
    process = project.start(processes, *numbers, program=["-c", EACH])
    assert process.communicate(timeout=300) == ("", "")
    assert process.returncode == 0
    counted = {
        name: [(folder / f"{file}_{number}").read_text().count(f"uid={uid}") for file in ("filed", "err")]
        for name, number, uid in zip(names, numbers, uids, strict=True)
    }
    assert counted == {name: [1, 0] if PROJECTS[name][1] else [0, 1] for name in names}


def test_a_project_can_silence_the_log(project):
    quiet = {"django_srq": {"handlers": ["none"], "propagate": False}}
    nowhere = {"none": {"class": "logging.NullHandler"}}
    project.add_to_settings(f"LOGGING = {config(loggers=quiet, handlers=nowhere)}")
    queues["failing"].put(1)
    assert project.run("srq_consume", "failing", "--burst") == (0, "", "")


@pytest.mark.parametrize(("verbosity", "says"), [("0", False), ("1", True), ("2", True)])
def test_without_handlers_verbosity_sets_the_level(project, verbosity, says):
    uid = queues["note"].put(1)
    _, _, err = project.run("srq_consume", "note", "--burst", "--verbosity", verbosity)
    assert (uid in err) is says
