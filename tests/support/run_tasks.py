"""Consumes a queue of tasks with child processes: ``python -m tests.support.run_tasks URL NAME OPTIONS``.

OPTIONS: a JSON object with those of the consumer, and those of the subscription under "subscription".
"""

from __future__ import annotations

import json
import logging
import sys

import django

from django_srq import SafeRedisQueue
from django_srq.consumer import ConsumerOptions, Subscription, Supervisor
from django_srq.queue.serializers import JSON
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.support.task_runner import TaskRunner
from tests.support.waiting import PATIENT

if __name__ == "__main__":
    url, name, options = *sys.argv[1:3], json.loads(sys.argv[3])
    django.setup()
    logging.basicConfig(level=logging.INFO)
    queue = SafeRedisQueue(name=name, serializer=JSON(), link=Link(client_from_url(url), timeout=PATIENT))
    runner = TaskRunner()
    subscription = Subscription(
        queue, runner.run, **{"lease": 600, "runner": runner, **options.pop("subscription", {})}
    )
    sys.exit(Supervisor([subscription], ConsumerOptions(**options)).run())
