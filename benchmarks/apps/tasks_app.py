"""Django's own tasks; tasks_settings.py has the backend that they go to."""

import os

import django
import marks
from django.apps import apps

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tasks_settings")
if not apps.ready:
    django.setup()

from django.tasks import task

FILLER = "x" * 37  # with its task and a number of four digits, a call has 100 bytes


@task
def handled(number, filler):
    marks.handled(number)


def put(number):
    handled.enqueue(number, FILLER)


def put_many(numbers):
    for number in numbers:  # Django's tasks have no put in batches
        put(number)


def migrate():
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def clear():
    from django_tasks_db.models import DBTaskResult

    DBTaskResult.objects.all().delete()
