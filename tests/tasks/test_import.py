"""``django_srq.tasks`` can be imported on every Django, also before 6.0, which has no tasks."""

from __future__ import annotations

import re
import subprocess
import sys

import django
import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command

import django_srq.tasks
from django_srq import ConfigurationError, queues
from tests.support.project import ROOT

pytestmark = pytest.mark.versions

# As Celery, huey and srq_consume do it: they import the module "tasks" of each app.
AUTODISCOVERY = """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["django_srq"])
django.setup()
from django.utils.module_loading import autodiscover_modules
autodiscover_modules("tasks")
import importlib, django_srq.tasks
importlib.reload(django_srq.tasks)
listed = {*django_srq.tasks.__all__} & {*dir(django_srq.tasks)}
print(len(listed) == (len(django_srq.tasks.__all__) if django.VERSION >= (6, 0) else 0))
for name in dir(django_srq.tasks):
    getattr(django_srq.tasks, name)
"""


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_tasks_of_all_apps_can_be_imported():
    assert run(AUTODISCOVERY) == "True"


def test_importing_it_needs_no_settings():
    assert run("import django_srq.tasks; print(django_srq.tasks.__all__[0])") == "Backoff"


@pytest.mark.parametrize("name", django_srq.tasks.__all__)
def test_before_django_6_using_it_says_what_is_needed(monkeypatch, name):
    monkeypatch.setattr(django, "VERSION", (5, 2, 9, "final", 0))
    monkeypatch.delitem(vars(django_srq.tasks), name, raising=False)
    needed = f"django_srq.tasks.{name} needs Django 6.0 or later, .* give the queue a HANDLER in SRQ_QUEUES"
    with pytest.raises(ImproperlyConfigured, match=needed):
        getattr(django_srq.tasks, name)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(django_srq.tasks, "nothing")
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from django_srq.tasks import nothing  # noqa: F401


def test_what_reads_payloads_needs_no_tasks_of_django():
    """A process without tasks has to tell that an item is one."""
    code = "from django_srq.tasks.envelope import read; import sys; print('django.tasks' in sys.modules)"
    assert run(code) == "False"


def test_before_django_6_the_setting_is_reported(monkeypatch, settings):
    monkeypatch.setattr(django, "VERSION", (5, 2, 9, "final", 0))
    monkeypatch.setattr(django, "get_version", lambda: "5.2.9")
    backend = {"BACKEND": "django_srq.tasks.SRQBackend", "QUEUES": ["a", "b"], "OPTIONS": {"URL": "redis://localhost"}}
    settings.SRQ_QUEUES, settings.SRQ_DEFAULTS, settings.TASKS = {}, {}, {"default": backend}
    needed = "TASKS['default'] needs Django 6.0 or later, and this is 5.2.9."
    (message,) = checks.run_checks(tags=["django_srq"])
    assert (message.id, message.msg) == ("django_srq.E016", needed)
    with pytest.raises(ConfigurationError, match=re.escape(needed)):
        queues["a"]
    with pytest.raises(CommandError, match=re.escape(needed)):
        call_command("srq_consume")


TOO_EARLY = """
import sys
from django.conf import settings
backend = {"BACKEND": sys.argv[1], "OPTIONS": {"URL": "redis://localhost"}}
settings.configure(INSTALLED_APPS=["django_srq"], TASKS={"default": backend})
from django_srq import conf
print(conf.aliases(), sys.argv[1].rpartition(".")[0] in sys.modules)
import django
django.setup()
print(conf.aliases())
"""


def test_a_backend_is_not_imported_before_the_apps_are_loaded():
    """It may import models, for which it is too early."""
    assert run(TOO_EARLY, "tests.support.handlers.note") == "[] False\n[]"
