"""srq_consume runs tasks: which queues, how many at one time, and what it says."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest
from django.tasks import TaskResultStatus

from django_srq import queues
from tests.support.waiting import PATIENT, wait_for
from tests.tasks import deeds

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("configured")]

FAILED, SUCCESSFUL = TaskResultStatus.FAILED, TaskResultStatus.SUCCESSFUL
BACKEND = "django_srq.tasks.SRQBackend"


@pytest.fixture
def configured(project, settings, server_url, prefix):
    """Sets TASKS for this process and for the commands that it starts. ``configured(handlers={…}, queues=[…], …)``."""

    def configure(handlers: dict[str, str] | None = None, queues: list[str] = ["default", "mail"], **options: object):  # noqa: B006
        written = {alias: {"HANDLER": f"tests.support.handlers.{name}"} for alias, name in (handlers or {}).items()}
        defaults = {"URL": server_url, "PREFIX": prefix + ".{alias}", **options}
        project.configure(written, defaults)
        tasks = {"default": {"BACKEND": BACKEND, "QUEUES": queues}}
        settings.TASKS = tasks
        project.add_to_settings(f"TASKS = {tasks!r}")

    configure()
    return configure


def ended(result, project, *arguments: str):
    """The result of a task that a command has run."""
    code, _, err = project.run("srq_consume", "--burst", *arguments)
    assert code == 0, err
    result.refresh()
    return result


@pytest.mark.parametrize("arguments", [[], ["--processes", "0"], ["--processes", "2", "--threads", "2"]])
def test_tasks_need_nothing_but_tasks_in_the_settings(project, arguments):
    results = [deeds.add.enqueue(number, b=1) for number in range(10)]
    ended(results[0], project, *arguments)
    for number, result in enumerate(results):
        result.refresh()
        assert (result.status, result.return_value, result.attempts) == (SUCCESSFUL, number + 1, 1)


def test_without_names_all_queues_with_a_handler_and_all_of_tasks_are_served(project, configured):
    configured({"note": "note"}, queues=["default", "mail"])
    queues["note"].put("x")
    results = [deeds.nothing.enqueue("one"), deeds.nothing.using(queue_name="mail").enqueue("two")]
    code, _, err = project.run("srq_consume", "--burst", "-v", "1")
    assert (code, sorted(project.lines())) == (0, ["one", "two", "x 1"])
    assert [result.attempts for result in map(refreshed, results)] == [1, 1]
    assert sorted(re.findall(r"serving queue=(\S+) tasks server=", err)) == ["default", "mail"]
    assert "serving queue=note server=" in err
    assert "handler=tests.support.handlers.note" in err


def refreshed(result):
    result.refresh()
    return result


def test_named_queues_are_served_in_their_order_and_no_others(project, configured):
    configured({"note": "note"})
    queues["note"].put("x")
    first = deeds.nothing.using(queue_name="mail").enqueue("mail")
    other = deeds.nothing.enqueue("other")
    assert project.run("srq_consume", "mail", "note", "--burst")[0] == 0
    assert project.lines() == ["mail", "x 1"]
    assert refreshed(first).status == SUCCESSFUL
    assert refreshed(other).attempts == 0


def test_the_tasks_of_all_apps_are_imported_once_and_before_the_fork(project):
    app = project.folder / "shop_of_test"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "tasks.py").write_text("import os\nfrom tests.tasks.deeds import _say\n_say('imported', os.getpid())\n")
    project.add_to_settings("INSTALLED_APPS = [*INSTALLED_APPS, 'shop_of_test']")
    result = deeds.nothing.enqueue("it")
    process = project.start("srq_consume", "--burst", "--processes", "2")
    process.communicate(timeout=PATIENT)
    assert project.lines() == [f"imported {process.pid}", "it"]
    assert refreshed(result).status == SUCCESSFUL
    project.log.write_text("")
    queues["default"].put({})
    project.run("srq_consume", "raw", "--burst")
    assert project.lines() == []  # no queue of tasks is served


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_task_is_not_printed_where_tasks_are_not_configured(project, server_url, prefix, processes):
    result = deeds.add.enqueue(1)
    project.configure({"default": {}}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
    code, out, err = project.run("srq_consume", "default", "--processes", processes)
    assert (code, out) == (1, "")
    assert f"Item {result.id} is a task, tests.tasks.deeds.add. TASKS names no backend for its queue" in err
    (item,) = queues["default"].items("ready")
    assert (item.uid, item.deliveries) == (result.id, 0)


def test_a_payload_that_is_no_task_is_printed_still(project, server_url, prefix):
    project.configure({"json": {}}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
    queues["json"].put_many([{"task": "x"}, {"args": [], "kwargs": {}}, "task"])
    code, out, _ = project.run("srq_consume", "json", "--burst")
    assert (code, len(out.splitlines())) == (0, 3)


def test_the_log_names_tasks(project, tmp_path):
    bad = deeds.fail.using(max_attempts=1).enqueue("no")
    good = deeds.nothing.enqueue("it")
    _, _, err = project.run("srq_consume", "--burst", "-v", "1")
    assert f"acked queue=default uid={good.id} task=tests.tasks.deeds.nothing deliveries=1" in err
    assert f"failed, now dead queue=default uid={bad.id} task=tests.tasks.deeds.fail deliveries=1" in err


def test_many_async_tasks_run_beside_as_many_sync_ones_as_there_are_threads(project):
    words = [f"a{number}" for number in range(8)]
    results = [deeds.wait.enqueue(f"s{number}") for number in range(3)]
    results += [deeds.await_.enqueue(word) for word in words]
    process = project.start("srq_consume", "--burst", "--concurrency", "11", "--threads", "2")
    wait_for(lambda: len(project.lines()) == 10, "two sync tasks and all async ones")
    assert sum(line.startswith("wait") for line in project.lines()) == 2
    for word in (*words, "s0", "s1", "s2"):
        project.say(word)
    _, err = process.communicate(timeout=PATIENT)
    assert process.returncode == 0
    assert "no effect" not in err
    assert {refreshed(result).return_value for result in results} == {*words, "s0", "s1", "s2"}


@pytest.mark.parametrize("processes", ["0", "1"])
@pytest.mark.parametrize("name", ["interrupt", "leave"])
def test_a_task_that_raises_keyboardinterrupt_or_systemexit_has_failed(project, name, processes):
    kinds = {"interrupt": KeyboardInterrupt, "leave": SystemExit}
    result = getattr(deeds, name).using(max_attempts=2).enqueue()
    after = deeds.nothing.enqueue("after")
    ended(result, project, "--processes", processes)
    assert (result.status, [error.exception_class for error in result.errors]) == (FAILED, [kinds[name]] * 2)
    assert queues["default"].snapshot().stats.get("crashed", 0) == 0
    assert refreshed(after).status == SUCCESSFUL


@pytest.mark.parametrize("processes", ["0", "1"])
def test_ctrl_c_lets_a_running_task_finish(project, processes):
    result, waiting = deeds.wait.enqueue("it"), deeds.nothing.enqueue("later")
    said = project.folder / "err"
    with said.open("w") as err:
        process = project.start("srq_consume", "--processes", processes, "--prefetch", "2", stderr=err)
    project.said("wait it")
    wait_for(lambda: queues["default"].counts()["in_flight"] == 2, "both are claimed")
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping" in said.read_text(), "word of the stop")
    if processes != "0":  # the child hears of it later
        wait_for(lambda: queues["default"].counts()["in_flight"] == 1, "the other one is given back")
    project.say("it")
    assert process.wait(PATIENT) == 0
    assert (refreshed(result).return_value, refreshed(waiting).attempts) == ("it", 0)


def test_autoreload_restarts_when_a_module_of_tasks_changes(project):
    app = project.folder / "changing_app"
    app.mkdir()
    (app / "__init__.py").touch()

    def write(word: str) -> None:
        (app / "tasks.py").write_text(
            f"from django.tasks import task\nfrom tests.tasks.deeds import _say\n\n"
            f"@task\ndef it(number):\n    _say('{word}', number)\n"
        )

    write("first")
    watched = project.folder / "watched"
    project.add_to_settings(
        "INSTALLED_APPS = [*INSTALLED_APPS, 'changing_app']\n"
        "import pathlib\nfrom django.utils.autoreload import StatReloader\nfiles = StatReloader.snapshot_files\n"
        f"def snapshot_files(self):\n    yield from files(self)\n    pathlib.Path({str(watched)!r}).touch()\n"
        "StatReloader.snapshot_files = snapshot_files"
    )
    queue = project.patient("default")
    process = project.start("srq_consume", "--autoreload", environment={"PYTHONDONTWRITEBYTECODE": "1"})
    queue.put({"task": "changing_app.tasks.it", "args": [1], "kwargs": {}})
    project.said("first 1")
    (before,) = wait_for(lambda: queue.snapshot().consumers, "its entry")
    wait_for(watched.exists, "the reloader to know the code as it was")
    write("second")
    wait_for(lambda: set(queue.snapshot().consumers) - {before}, "another consumer")
    queue.put({"task": "changing_app.tasks.it", "args": [2], "kwargs": {}})
    project.said("second 2")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0


def test_a_timeout_without_child_processes_has_no_effect_and_the_log_says_so_once(project):
    results = [deeds.nothing.using(timeout=5).enqueue(word) for word in "ab"]
    _, _, err = project.run("srq_consume", "--burst", "--processes", "0")
    assert err.count("the timeout of a task has no effect without child processes queue=default") == 1
    assert {refreshed(result).status for result in results} == {SUCCESSFUL}
    deeds.nothing.using(timeout=5).enqueue("c")
    assert "no effect" not in project.run("srq_consume", "--burst")[2]


def test_the_log_as_json_has_the_name_of_the_task(project, caplog):
    caplog.set_level("INFO", "django_srq.consumer")
    deeds.nothing.enqueue("it")
    project.call("srq_consume", "--burst", "--processes", "0")
    (record,) = [record for record in caplog.records if getattr(record, "outcome", "") == "acked"]
    fields = {name: getattr(record, name) for name in ("queue", "outcome", "deliveries", "task")}
    assert json.loads(json.dumps(fields)) == {
        "queue": "default",
        "outcome": "acked",
        "deliveries": 1,
        "task": "tests.tasks.deeds.nothing",
    }
