"""What is told of tasks whose process died, by real processes."""

from __future__ import annotations

import pytest
from django.tasks import TaskResultStatus

from tests.support.project import LEASE
from tests.support.waiting import wait_for
from tests.tasks import dying

pytestmark = [pytest.mark.versions, pytest.mark.once]


@pytest.fixture
def consumer(project, server_url, prefix):
    """Starts a consumer of tasks."""

    def start(**options):
        common = {"URL": server_url, "PREFIX": prefix + ".{alias}", "BACKOFF": {"base": 0.01, "max": 0.01}, **options}
        tasks = {"default": {"BACKEND": "django_srq.tasks.SRQBackend", "OPTIONS": common}}
        project.configure({}, {})
        project.settings.TASKS = tasks
        project.add_to_settings(f"TASKS = {tasks!r}")
        return project.start("srq_consume")

    return start


def told(project, result):
    return [line.replace(f" {result.id}", "") for line in project.lines() if result.id in line]


@pytest.mark.parametrize(
    ("task", "options", "kind"),
    [(dying.die, {"MAX_CRASHES": 2}, "Crashed"), (dying.hang, {"MAX_DELIVERIES": 2}, "TaskTimeout")],
)
def test_task_finished_is_sent_once_for_a_task_that_is_dead_as_its_process_died(project, consumer, task, options, kind):
    consumer(**options)
    result = task.enqueue()
    after = dying.say.enqueue("after")
    wait_for(lambda: f"finished FAILED 2 {kind} {kind}" in told(project, result), "the end")
    wait_for(lambda: "finished SUCCESSFUL 1" in told(project, after), "another task")
    assert told(project, result) == ["started 1", "started 2", f"finished FAILED 2 {kind} {kind}"]
    result.refresh()
    assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 2)


def test_a_task_whose_process_died_in_its_last_attempt(project, consumer):
    """The queue would allow further attempts."""
    consumer(MAX_CRASHES=None)
    result = dying.die.using(max_attempts=1).enqueue()
    wait_for(lambda: len(told(project, result)) == 2, "the end")
    assert told(project, result) == ["started 1", "finished FAILED 1 Crashed"]


def test_a_task_whose_host_died_in_its_last_attempt(project, consumer):
    """The server knows the attempts that the queue allows. The next consumer that gets the task does not run it."""
    first = consumer(LEASE=LEASE)
    result = dying.block.using(max_attempts=1).enqueue()
    wait_for(lambda: told(project, result) == ["started 1"], "the start")
    project.kill(first)
    consumer(LEASE=LEASE)
    wait_for(lambda: len(told(project, result)) == 2, "the end")
    assert told(project, result) == ["started 1", "finished FAILED 1 ConsumerLost Exhausted"]
