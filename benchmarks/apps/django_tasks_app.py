"""django-tasks-redis, called through Django's own tasks."""

import os

import django
import marks
from django.apps import apps

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_tasks_settings")
if not apps.ready:
    django.setup()

from django.tasks import task


@task
def handled(number):
    marks.handled(number)


@task
def arrived(sent):
    marks.arrived(sent)


def put(number):
    handled.enqueue(number)


def put_many(numbers):
    for number in numbers:  # the API has no put in batches
        put(number)


def send(sent):
    arrived.enqueue(sent)
