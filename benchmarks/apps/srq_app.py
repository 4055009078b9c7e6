"""django_srq as in its quick start: settings, and the queue by its alias."""

import os

import django
import marks
from django.apps import apps

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "srq_settings")
if not apps.ready:
    django.setup()

from django_srq import queues

FILLER = "x" * 80


def handle(payload):
    if "sent" in payload:
        marks.arrived(payload["sent"])
    else:
        marks.handled(payload["number"])


def put(number):
    queues["bench"].put({"number": number, "filler": FILLER})


def put_many(numbers):
    queues["bench"].put_many([{"number": number, "filler": FILLER} for number in numbers])


def send(sent):
    queues["bench"].put({"sent": sent, "filler": FILLER})


def in_flight():
    return queues["bench"].counts()["in_flight"]
