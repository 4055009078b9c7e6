"""The files of the page Deploy that cannot be used here as they are: their tools read them, and their commands run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from django_srq.status.prometheus import STATES
from tests.docs.pages import ROOT, blocks
from tests.docs.sessions import Session
from tests.docs.test_pages import ENVIRONMENT, project
from tests.support.project import kill_session
from tests.support.servers import Server
from tests.support.waiting import wait_for

__all__ = ["project"]

PAGE = ROOT / "docs" / "howto" / "deploy.md"
BIN = Path(sys.executable).parent
# The project of the page, in place of the one in /srv or /app.
HANDLER = """
import time
def handle_order(payload, item):
    print(f"begun {payload['order']}\\n", end="", flush=True)  # in one write: the log may come between two
    time.sleep(payload["seconds"])
    print(f"handled {payload['order']}\\n", end="", flush=True)
"""
KEY = "srq:shop.orders:"


def shown(path: str) -> str:
    """The file that the page shows."""
    (text,) = (block.text for block in blocks(PAGE) if block.text.splitlines()[0] == f"# {path}")
    return text


def tool(name: str, package: str = "") -> str:
    """The path of a program; without it the tests fail."""
    found = shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    assert found, f"These tests need the program {name}, which Debian's package {package} has."
    return found


def run(*command: str | Path, **options: Any) -> str:
    """Run a program that has to succeed; its whole output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def grace(words: list[str]) -> float:
    assert words[words.index("srq_consume") - 1] == "manage.py"
    return float(words[words.index("--grace") + 1]) if "--grace" in words else 25.0


def seconds(text: str) -> float:
    assert re.fullmatch(r"\d+s?", text), text
    return float(text.removesuffix("s"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def site(project: Path, server: Server, tmp_path: Path) -> Path:
    """The folder of the project, with the settings that the page shows, and a handler that takes its time."""
    folder = tmp_path / "site"
    shutil.copytree(project, folder)
    session = Session(folder, ENVIRONMENT, "")
    session.execute(block for block in blocks(PAGE) if block.file == ("mysite/settings.py", True))
    session.close()
    (folder / "shop" / "handlers.py").write_text(HANDLER)
    with server.client() as client:
        client.flushdb()
    return folder


@contextmanager
def running(
    site: Path, command: list[str | Path], server: Server, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A service, as a platform starts it; its output goes to the file output."""
    with (site / "output").open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=site,
            env={**ENVIRONMENT, "REDIS_URL": server.url, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        kill_session(process)


def begins_an_order(site: Path, server: Server) -> None:
    """Put an order, and wait until its handler runs."""
    payload = json.dumps({"order": 17, "seconds": 1.0})
    environment = {**ENVIRONMENT, "REDIS_URL": server.url}
    run(sys.executable, "manage.py", "srq_put", "orders", "--json", payload, cwd=site, env=environment)
    wait_for(lambda: "begun 17" in (site / "output").read_text(), "a running handler")


def finished_the_order(site: Path, server: Server) -> None:
    """The handler was not cut, and the item is acked."""
    assert "handled 17" in (site / "output").read_text()
    with server.client() as client:
        assert client.hlen(KEY + "items") == 0


def local(words: list[str]) -> list[str | Path]:
    """The command, with the Python of this environment."""
    assert Path(words[0]).name == "python"
    return [sys.executable, *words[1:]]


# -- systemd


def unit() -> dict[str, str]:
    lines = (line.partition("=") for line in shown("/etc/systemd/system/mysite-consumer@.service").splitlines())
    return {name: value for name, equals, value in lines if equals and not name.startswith("#")}


def test_the_unit_is_valid(tmp_path: Path) -> None:
    systemd = tool("systemd-analyze", "systemd")
    path = tmp_path / "mysite-consumer@.service"
    program = unit()["ExecStart"].split()[0]
    path.write_text(shown("/etc/systemd/system/mysite-consumer@.service").replace(program, sys.executable))
    assert run(systemd, "verify", "--man=no", path) == ""
    assert seconds(unit()["TimeoutStopSec"]) >= grace(shlex.split(unit()["ExecStart"])) + 10
    exposed = run(systemd, "security", "--offline=true", "--no-pager", path)
    level = re.search(r"Overall exposure level for .*: ([\d.]+) ", exposed)
    assert level, exposed
    assert float(level[1]) < 2.5  # of 10


def test_the_unit_serves_and_stops(site: Path, server: Server, tmp_path: Path) -> None:
    """It tells systemd that it is ready; SIGTERM to the main process alone lets the handler finish."""
    assert unit()["Type"] == "notify"
    assert unit()["KillMode"] == "mixed"
    command = local(shlex.split(unit()["ExecStart"]))
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(60)
        with running(site, command, server, NOTIFY_SOCKET=str(address), WATCHDOG_USEC="60000000") as process:
            while systemd.recv(100) != b"READY=1":
                pass
            begins_an_order(site, server)
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(seconds(unit()["TimeoutStopSec"])) == 0
    finished_the_order(site, server)


def test_the_unit_starts_while_the_server_is_away(site: Path, tmp_path: Path) -> None:
    away = Server()
    away.stop()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            address = tmp_path / "notify"
            systemd.bind(str(address))
            systemd.settimeout(60)
            command = local(shlex.split(unit()["ExecStart"]))
            with running(site, command, away, NOTIFY_SOCKET=str(address)) as process:
                while systemd.recv(100) != b"READY=1":
                    pass
                process.terminate()
                assert process.wait(90) == 0
    finally:
        away.close()


def test_the_exit_code_that_prevents_a_restart_is_that_of_wrong_settings(site: Path, server: Server) -> None:
    with (site / "mysite" / "settings.py").open("a") as settings:
        settings.write('SRQ_QUEUES["orders"]["MAX_DELIVERIES"] = "many"\n')
    with running(site, local(shlex.split(unit()["ExecStart"])), server) as process:
        assert process.wait(60) == int(unit()["RestartPreventExitStatus"])


def test_the_connections_of_a_consumer(site: Path, server: Server) -> None:
    """At most two for each process, and that of the keeper."""
    command = local(["python", "manage.py", "srq_consume", "--processes", "2", "--threads", "8"])
    with server.client() as client, running(site, command, server) as process:
        before = len(client.client_list())
        begins_an_order(site, server)
        assert 2 < len(client.client_list()) - before + 1 <= 2 * 2 + 1 + 1
        process.terminate()
        assert process.wait(60) == 0


# -- supervisor


def test_supervisor_runs_and_stops_the_program(site: Path, server: Server) -> None:
    text = shown("/etc/supervisor/conf.d/mysite-consumer.conf")
    options = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert seconds(options["stopwaitsecs"]) >= grace(shlex.split(options["command"])) + 10
    for ours, here in (
        ("/srv/mysite/.venv/bin/python", sys.executable),
        ("/srv/mysite", str(site)),
        ("user=mysite\n", ""),
        ("redis://10.0.0.5:6379/0", server.url),
        ("/var/log/mysite-consumer.log", str(site / "output")),
    ):
        assert ours in text
        text = text.replace(ours, here)
    configuration = site / "supervisord.conf"
    daemon = f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={site}/pid\n"
    configuration.write_text(daemon + text)
    process = subprocess.Popen(
        [tool("supervisord"), "-c", configuration],
        cwd=site,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for((site / "output").exists, "the program")
        begins_an_order(site, server)
        process.terminate()  # it stops its programs, and waits for them
        process.wait(seconds(options["stopwaitsecs"]))
        finished_the_order(site, server)
        assert "done: 1 delivery, 1 acked" in (site / "output").read_text()
    finally:
        kill_session(process)


# -- Docker and Compose


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(shown("compose.yaml"))["services"])


def test_the_dockerfile_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(shown("Dockerfile"))
    assert run(tool("hadolint"), "--no-color", path) == ""


def test_the_command_of_the_image_is_a_first_process(site: Path, server: Server) -> None:
    """As PID 1 of a container; it gets the SIGTERM of ``docker stop``."""
    (command,) = (
        json.loads(line.removeprefix("CMD ")) for line in shown("Dockerfile").splitlines() if line.startswith("CMD ")
    )
    assert grace(command) == 25
    namespace = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--pid", "--fork"]
    with running(site, [*namespace, *local(command)], server) as process:
        begins_an_order(site, server)
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        assert process.wait(60) == 0
    finished_the_order(site, server)


def test_the_compose_file_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text(shown("compose.yaml"))
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", path)
    consumer = compose()["consumer"]
    assert seconds(consumer["stop_grace_period"]) >= grace(consumer["command"]) + 10
    volumes = yaml.safe_load(shown("compose.yaml"))["volumes"]
    assert [volume.partition(":")[0] for volume in compose()["valkey"]["volumes"]] == list(volumes)
    for service in compose().values():
        assert isinstance(service["command"], list)


def test_the_server_of_the_compose_file_keeps_its_items() -> None:
    command = compose()["valkey"]["command"]
    assert command[0] == "valkey-server"
    server = Server(*command[1:])
    try:
        with server.client(decode_responses=True) as client:
            options = client.config_get("appendonly", "maxmemory-policy", "maxmemory")  # type: ignore[call-arg]
    finally:
        server.close()
    assert options == {"appendonly": "yes", "maxmemory-policy": "noeviction", "maxmemory": str(512 * 1024**2)}


def probe(command: list[str], heartbeat: Path) -> bool:
    """Whether the command of a probe succeeds."""
    command = [word.replace("/tmp/heartbeat", str(heartbeat)) for word in command]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def healthy(command: list[str], tmp_path: Path) -> list[bool]:
    """What a probe says without a heartbeat, with a fresh one, and with one of two minutes ago."""
    heartbeat = tmp_path / "heartbeat"
    heartbeat.unlink(missing_ok=True)
    answers = [probe(command, heartbeat)]
    heartbeat.touch()
    answers.append(probe(command, heartbeat))
    before = heartbeat.stat().st_mtime - 120
    os.utime(heartbeat, (before, before))
    return [*answers, probe(command, heartbeat)]


def test_the_health_check_reads_the_heartbeat(tmp_path: Path) -> None:
    kind, command = compose()["consumer"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    assert healthy(["sh", "-c", command.replace("$$", "$")], tmp_path) == [False, True, False]


# -- Kubernetes


def container() -> dict[str, Any]:
    (only,) = yaml.safe_load(shown("consumer.yaml"))["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_the_deployment_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "consumer.yaml"
    path.write_text(shown("consumer.yaml"))
    assert "passed" in run(tool("kubernetes-validate"), "--strict", path)
    spec = yaml.safe_load(path.read_text())["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= grace([*container()["command"], *container()["args"]]) + 10


def test_the_probes_read_the_heartbeat(tmp_path: Path) -> None:
    assert healthy(container()["livenessProbe"]["exec"]["command"], tmp_path) == [False, True, False]
    assert healthy(container()["readinessProbe"]["exec"]["command"], tmp_path) == [False, True, True]


def test_a_consumer_that_cannot_import_its_handlers_is_never_ready(site: Path, server: Server, tmp_path: Path) -> None:
    (site / "shop" / "handlers.py").write_text("import nothing_of_that_name\n")
    heartbeat = tmp_path / "heartbeat"
    words = [word.replace("/tmp/heartbeat", str(heartbeat)) for word in [*container()["command"], *container()["args"]]]
    with running(site, local(words), server) as process:
        assert process.wait(60) != 0
    assert not heartbeat.exists()


def test_the_container_of_the_deployment_runs(site: Path, server: Server, tmp_path: Path) -> None:
    """With its arguments; its probes succeed while it runs, and it stops."""
    heartbeat = tmp_path / "heartbeat"
    words = [word.replace("/tmp/heartbeat", str(heartbeat)) for word in [*container()["command"], *container()["args"]]]
    with running(site, local(words), server) as process:
        begins_an_order(site, server)
        for name in ("readinessProbe", "livenessProbe"):
            assert probe(container()[name]["exec"]["command"], heartbeat)
        process.terminate()
        assert process.wait(60) == 0
    finished_the_order(site, server)
    assert not heartbeat.exists()


def test_the_scaled_object_is_valid() -> None:
    """No package has its schema: these are the fields that KEDA's specification names."""
    scaled = yaml.safe_load(shown("scale.yaml"))
    deployment = yaml.safe_load(shown("consumer.yaml"))
    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert scaled["spec"].keys() == {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "triggers"}
    assert scaled["spec"]["scaleTargetRef"] == {"name": deployment["metadata"]["name"]}
    assert scaled["spec"]["minReplicaCount"] >= 1
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metadata"].keys() == {"serverAddress", "query", "threshold"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    found = re.search(r'\(srq_items\{queue="orders", state=~"([\w|]+)"\}\)', trigger["metadata"]["query"])
    assert found
    assert set(found[1].split("|")) <= STATES.keys()


def test_the_list_of_a_queue_does_not_hold_all_that_consumers_have_to_do(server: Server) -> None:
    """Why KEDA is not to scale by the length of that list."""
    from django_srq import SafeRedisQueue

    queue = SafeRedisQueue(name="scaled", url=server.url)
    queue.put("first")
    queue.put("second")
    queue.release(queue.get(timeout=-1))
    assert queue.get(timeout=-1)
    queue.put("urgent", priority=1)
    with server.client() as client:
        assert client.llen("srq:scaled:queue") == 1
    queue.put("later", delay=0.001)
    wait_for(lambda: queue.snapshot().due == 1, "the item to be due")
    assert queue.counts()["delayed"] == 1  # until a consumer claims


# -- Procfile


def test_the_procfile_runs(site: Path, server: Server) -> None:
    (site / "Procfile").write_text(shown("Procfile"))
    assert "web, consumer" in run(tool("honcho"), "check", cwd=site)
    with running(site, [tool("honcho"), "start", "consumer"], server) as process:
        begins_an_order(site, server)
        process.terminate()
        assert process.wait(60) == 143
    finished_the_order(site, server)
    command = next(line for line in shown("Procfile").splitlines() if line.startswith("consumer:"))
    assert grace(shlex.split(command.partition(": ")[2])) <= 30 - 10  # Heroku's limit


def test_all_processes_may_be_sent_the_stop(site: Path, server: Server) -> None:
    """As Heroku does."""
    with running(site, local(["python", "manage.py", "srq_consume", "--processes", "2"]), server) as process:
        begins_an_order(site, server)
        os.killpg(process.pid, signal.SIGTERM)  # its children lead groups of their own
        for path in Path("/proc").glob("[0-9]*/stat"):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == process.pid and int(path.parent.name) != process.pid:
                os.kill(int(path.parent.name), signal.SIGTERM)
        assert process.wait(60) == 0
    finished_the_order(site, server)
