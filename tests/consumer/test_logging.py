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


@pytest.mark.parametrize(
    ("name", "processes"), [*((name, "1") for name in PROJECTS), ("nothing", "0"), ("root", "0"), ("later", "0")]
)
def test_records_go_once_to_the_handlers_of_the_project(project, name, processes):
    code, handled = PROJECTS[name]
    filed = project.folder / "filed"
    filed.touch()
    project.add_to_settings(TO_FILE.format(path=str(filed)) + code)
    uid = queues["note"].put(1)
    status, _, err = project.run("srq_consume", "note", "--burst", "--processes", processes)
    assert status == 0
    counted = filed.read_text().count(f"uid={uid}"), err.count(f"uid={uid}")
    assert counted == ((1, 0) if handled else (0, 1))


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
