"""What the page about monitoring gives to other programs: Prometheus, its alert rules, and the dashboard of Grafana."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.docs.pages import ROOT, Block, blocks
from tests.docs.sessions import PATIENT, Session, Terminal
from tests.docs.test_pages import ENVIRONMENT, quick_start
from tests.support.servers import held_port
from tests.support.waiting import wait_for

PAGE = ROOT / "docs" / "howto" / "monitor.md"
DASHBOARD = ROOT / "docs" / "_static" / "grafana.json"
METRICS = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
ALERTS = Path(__file__).with_name("alerts.yml")


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is missing. On Debian: apt-get install --no-install-recommends prometheus"
    return found


def promtool(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [program("promtool"), *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the files for Prometheus that the page shows."""
    shown = [block for block in blocks(PAGE) if block.language == "yaml"]
    assert [block.file and block.file[0] for block in shown] == ["prometheus.yml", "srq-alerts.yml"]
    for block in shown:
        assert block.file
        (tmp_path / block.file[0]).write_text(block.text, "utf-8")
    return tmp_path


def dashboard() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return data


def expressions() -> list[str]:
    """The expressions of the dashboard, with values in the place of Grafana's variables."""
    targets = [target for panel in dashboard()["panels"] for target in panel["targets"]]
    replaced = [target["expr"].replace("$__rate_interval", "2m").replace("$queue", ".*") for target in targets]
    assert "$" not in "".join(replaced)
    return replaced


# -- by the tools


def test_each_alert_fires_when_it_is_to_fire(files: Path) -> None:
    """And not before, and only once when several processes of the site are scraped."""
    shutil.copy(ALERTS, files)
    promtool(files, "test", "rules", ALERTS.name)
    rules = yaml.safe_load((files / "srq-alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    cases = [case for test in yaml.safe_load(ALERTS.read_text("utf-8"))["tests"] for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names


def test_the_dashboard_has_no_field_that_grafana_does_not_know() -> None:
    """Grafana's types for Python leave out what they do not know, and nothing else."""
    register_default_plugins()
    written = dashboard()
    read = json.loads(json.dumps(Dashboard.from_json(written), cls=JSONEncoder))
    assert list(_lost(written, read)) == []
    for panel in written["panels"]:
        importlib.import_module(f"grafana_foundation_sdk.models.{panel['type']}")


def _lost(written: Any, read: Any, path: str = "") -> Iterator[str]:
    if isinstance(written, dict):
        for name, value in written.items():
            yield from _lost(value, read.get(name) if isinstance(read, dict) else None, f"{path}/{name}")
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for number, pair in enumerate(zip(written, read, strict=True)):
            yield from _lost(*pair, f"{path}/{number}")
    elif written != read:
        yield f"{path}: {written!r} was read as {read!r}"


def test_the_expressions_of_the_dashboard_can_be_parsed(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(expressions())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool(tmp_path, "check", "rules", "rules.yml")


def test_alerts_and_dashboard_use_documented_metrics() -> None:
    kinds = dict(re.findall(r"^\| `(\w+)` \| (\w+) ", METRICS, re.MULTILINE))
    known = {name for name, kind in kinds.items() if kind != "histogram"}
    known |= {
        f"{name}_{end}" for name, kind in kinds.items() if kind == "histogram" for end in ("bucket", "sum", "count")
    }
    for text in (DASHBOARD.read_text("utf-8"), PAGE.read_text("utf-8")):
        used = set(re.findall(r"\b(srq_\w+)(?=[{\[)\],])", text))
        assert used
        assert used - known == set()


# -- with a real Prometheus


@pytest.fixture
def prometheus(files: Path) -> Iterator[str]:
    """The address of a Prometheus with the page's files, each minute of them a second, that scrapes a site."""
    with held_port() as site, held_port() as port:
        session = Session(files, ENVIRONMENT, f"127.0.0.1:{site}")
        config, rules = files / "prometheus.yml", files / "srq-alerts.yml"
        config.write_text(session.real(config.read_text()).replace(": 30s", ": 1s"))
        rules.write_text(rules.read_text().replace("for: 1m", "for: 1s"))
        try:
            session.execute(quick_start())
            session.execute(block for block in blocks(PAGE) if block.language == "python")
            (files / "srq.token").write_text("t0p-secret\n")
            environment = {**ENVIRONMENT, "SRQ_TOKEN": "t0p-secret"}
            commands = (
                f"python manage.py runserver --noreload {session.site}",
                f"{program('prometheus')} --config.file=prometheus.yml --storage.tsdb.path=tsdb "
                f"--web.listen-address=127.0.0.1:{port}",
            )
            session.running += [Terminal(files, command, environment) for command in commands]
            yield f"http://127.0.0.1:{port}"
        finally:
            session.close()


def ask(prometheus: str, expr: str) -> list[dict[str, Any]]:
    """The answer to a query; nothing until the server is there."""
    try:
        with urllib.request.urlopen(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expr})}") as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found
    except urllib.error.HTTPError as error:
        if error.code == 503:  # it is starting
            return []
        raise
    except OSError:
        return []


def run(folder: Path, command: str) -> None:
    Session(folder, ENVIRONMENT, "").execute([Block(0, "console", f"$ {command}\n")])


def test_a_prometheus_with_the_page_s_files_knows_the_queues(prometheus: str, files: Path) -> None:
    """It scrapes with the token, an alert fires about a real queue, and each query of the dashboard has an answer."""
    findings, *others = expressions()
    run(files, """python manage.py srq_put orders --json '{"order": 17}' '{"number": 18}'""")
    firing = 'ALERTS{alertname="QueueInTrouble",alertstate="firing"}'
    (alert,) = wait_for(lambda: ask(prometheus, firing), "the alert", seconds=PATIENT)
    assert (alert["metric"]["kind"], alert["metric"]["queue"]) == ("stuck", "orders")
    assert ask(prometheus, findings)
    run(files, "python manage.py srq_consume orders --burst")
    wait_for(lambda: ask(prometheus, "srq_acked_total > 0"), "the numbers of the consumer", seconds=PATIENT)
    for expr in others:
        wait_for(partial(ask, prometheus, expr), f"an answer to {expr}", seconds=PATIENT)
    wait_for(lambda: not ask(prometheus, firing), "the end of the alert", seconds=PATIENT)
