"""A consumer of tasks within the process of a test."""

from __future__ import annotations

from typing import Any

from django_srq import conf, queues
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.consumer.logged_errors import ErrorView
from django_srq.queue.masking import Secrets
from django_srq.tasks.runner import TaskRunner


def consume(alias: str = "default", **options: Any) -> int:
    """Run the tasks of a queue until none is ready; how many attempts there were. options: of the consumer."""
    queue = queues[alias]
    runner = TaskRunner(queue)
    parallel = options.get("concurrency", 1) > 1
    errors = ErrorView(queue.config.log_messages, Secrets(conf.load().admin.redact))
    subscription = Subscription(queue, runner.run, runner=runner, errors=errors, asynchronous=parallel)
    return InProcessConsumer([subscription], options=ConsumerOptions(burst=True, **options)).run()
