"""The views for machines: who may call them, and that they report the status."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from django.test import Client
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from django_srq import queues
from django_srq.status import prometheus
from django_srq.version import __version__
from tests.admin.test_admin import PERMISSIONS, visitor
from tests.support.server_clock import now

pytestmark = [pytest.mark.django_db, pytest.mark.versions]

VIEWS = ["status.json", "metrics", "health"]


@pytest.fixture
def orders(settings, server_url, prefix):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": prefix, "HANDLER": "tests.support.handlers.note"}}
    settings.SRQ_ADMIN = {"TIMEOUT": 10, "TOKEN": "t0p-secret"}
    return queues["orders"]


def with_token(path: str, token: str = "t0p-secret", **options: object):
    return Client().get(f"/srq/{path}", headers={"Authorization": f"Bearer {token}"}, **options)


@pytest.mark.parametrize("who", ["anonymous", "user", "staff", "superuser", *PERMISSIONS])
def test_who_may_call_the_views(orders, who):
    browser = visitor(who)
    for view in VIEWS:
        expected = 401 if who == "anonymous" else 200 if who in ("superuser", "view") else 403
        assert browser.get(f"/srq/{view}").status_code == expected, view
        assert browser.head(f"/srq/{view}").status_code == expected, view
        assert browser.post(f"/srq/{view}").status_code == (405 if expected == 200 else expected), view


@pytest.mark.parametrize("view", VIEWS)
def test_token(orders, settings, view):
    assert with_token(view).status_code == 200
    for wrong in ("", "t0p-secre", "T0P-SECRET", "ä"):
        response = with_token(view, wrong)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
    settings.SRQ_ADMIN = {"TIMEOUT": 10}
    assert with_token(view, "None").status_code == 401
    assert with_token(view, "").status_code == 401


def test_a_request_with_the_token_needs_no_database(orders, django_assert_num_queries):
    with django_assert_num_queries(0):
        for view in VIEWS:
            assert with_token(view).status_code == 200


def test_live_needs_no_token(orders):
    assert (Client().get("/srq/live").content, Client().head("/srq/live").status_code) == (b"ok\n", 200)
    assert "no-store" in Client().get("/srq/live").headers["Cache-Control"]
    assert Client().post("/srq/live").status_code == 405
    assert visitor("user").get("/srq/live").status_code == 200


def test_the_views_decide_themselves_who_may_call_them(orders, settings):
    """Also where Django's middleware lets nobody see a page without a login."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    for view in VIEWS:
        assert with_token(view).status_code == 200, view
        assert Client().get(f"/srq/{view}").status_code == 401, view
    assert Client().get("/srq/live").status_code == 200


def test_status(orders):
    orders.put(1)
    response = with_token("status.json")
    (queue,) = response.json()["queues"]
    assert (queue["queue"], queue["ready"], queue["state"]) == ("orders", 1, "stuck")
    assert "no-store" in response.headers["Cache-Control"]


def test_health(orders):
    assert Client().get("/srq/health").status_code == 401
    assert with_token("health").json() == {"level": "ok", "sentence": "The queue orders is healthy."}
    orders.put(1)
    response = with_token("health")
    assert (response.status_code, response.json()["level"]) == (503, "error")
    orders.pause()
    assert (with_token("health").status_code, with_token("health").json()["level"]) == (200, "warning")


def test_server_down(orders, settings, dead_port):
    settings.SRQ_QUEUES = {"orders": {"URL": f"redis://:secret@127.0.0.1:{dead_port}"}}
    for view, code in (("status.json", 503), ("health", 503), ("metrics", 200), ("live", 200)):
        response = with_token(view)
        assert response.status_code == code
        assert b"secret" not in response.content
    assert 'srq_up{queue="orders"} 0' in with_token("metrics").content.decode()


def test_a_rule_of_the_project_for_single_queues(orders, settings):
    (options,) = settings.SRQ_QUEUES.values()
    settings.SRQ_QUEUES = {"orders": options, "hidden": {**options, "PREFIX": options["PREFIX"] + "h"}}
    settings.SRQ_ADMIN = {
        "TIMEOUT": 10,
        "ALLOW": "tests.admin.test_pages.only_looking_at_orders",
        "TOKEN": "t0p-secret",
    }
    seen = visitor("superuser").get("/srq/status.json").json()["queues"]
    assert [queue["queue"] for queue in seen] == ["orders"]
    assert len(with_token("status.json").json()["queues"]) == 2


def test_a_rule_that_cannot_be_imported_is_reported(orders, settings):
    settings.SRQ_ADMIN = {"TIMEOUT": 10, "ALLOW": "not.there", "TOKEN": "t0p-secret"}
    root = visitor("superuser")
    for view, code in (("status.json", 503), ("health", 503), ("metrics", 503), ("live", 200)):
        response = root.get(f"/srq/{view}")
        assert response.status_code == code
        assert with_token(view).status_code == 200  # a request with the token needs no rule
        if code == 503:
            assert response.json()["level"] == "error"
            assert "'not.there' cannot be imported" in response.json()["sentence"]


def samples_of(response) -> dict[str, str]:
    lines = response.content.decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def with_items_in_all_states(orders) -> None:
    orders.max_deliveries = 1
    orders.put_many([1, 2, 3, 4])
    orders.put(5, delay=1000)
    orders.ack(orders.get(-1))
    orders.fail(orders.get(-1))
    orders.get(-1)


def test_metrics(orders):
    with_items_in_all_states(orders)
    response = with_token("metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = samples_of(response)
    assert samples[f'srq_info{{version="{__version__}"}}'] == "1"
    assert samples['srq_up{queue="orders"}'] == "1"
    states = {state: samples[f'srq_items{{queue="orders",state="{state}"}}'] for state in prometheus.STATES}
    assert states == {"ready": "1", "in_flight": "1", "scheduled": "1", "retrying": "0", "dead": "1"}
    assert samples['srq_put_total{queue="orders"}'] == "5"
    assert samples['srq_acked_total{queue="orders"}'] == "1"
    assert samples['srq_finding{kind="failing",level="warning",queue="orders"}'] == "1"
    assert samples['srq_process_seconds_count{queue="orders"}'] == "1"
    assert samples['srq_process_seconds_bucket{queue="orders",le="+Inf"}'] == "1"


def test_histograms_have_few_buckets_and_the_sum_of_the_times(orders, client):
    client.hset(orders.keys["stats"], mapping={"wait0": 1, "wait1": 2, "wait2": 4, "wait31": 8, "wait_ms": 12345})
    samples = samples_of(with_token("metrics"))
    buckets = {name: int(n) for name, n in samples.items() if name.startswith("srq_wait_seconds_bucket")}
    limits = [re.search('le="(.+)"', name)[1] for name in buckets]
    assert limits[:3] == ["0.001", "0.004", "0.016"]
    assert limits[-3:] == ["4194.304", "16777.216", "+Inf"]
    assert 12 <= len(limits) <= 15
    assert list(buckets.values()) == [1, *[7] * 12, 15]
    assert samples['srq_wait_seconds_count{queue="orders"}'] == "15"
    assert samples['srq_wait_seconds_sum{queue="orders"}'] == "12.345"


def test_the_sum_of_the_times_grows_with_each_item(orders, client):
    orders.put(1)
    item = orders.get(-1)
    token = client.hget(orders.keys["holders"], item.uid).decode()
    client.hset(orders.keys["holders"], item.uid, token.partition("@")[0] + f"@{now(client) - 10_000}")
    orders.ack(item.uid)
    samples = samples_of(with_token("metrics"))
    assert 10 <= float(samples['srq_process_seconds_sum{queue="orders"}']) < 70
    assert with_token("status.json").json()["queues"][0]["totals"] == {"put": 1, "delivered": 1, "acked": 1}


def families_of(openmetrics: bool) -> dict[str, object]:
    """The families by name, as the parser of Prometheus' own library reads them."""
    if not openmetrics:
        text = with_token("metrics").content.decode()
        return {family.name: family for family in parser.text_string_to_metric_families(text)}
    response = Client().get("/srq/metrics", headers={"Authorization": "Bearer t0p-secret", "Accept": SCRAPER})
    assert response.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    found = list(openmetrics_parser.text_string_to_metric_families(response.content.decode()))
    assert len({family.name for family in found}) == len(found)
    return {family.name: family for family in found}


SCRAPER = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
METRICS = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text("utf-8")


@pytest.mark.parametrize("openmetrics", [False, True])
def test_the_parsers_of_prometheus_read_the_documented_metrics_and_no_others(orders, settings, dead_port, openmetrics):
    (options,) = settings.SRQ_QUEUES.values()
    down = f"redis://127.0.0.1:{dead_port}"
    settings.SRQ_QUEUES = {
        "orders": options,
        "mail": {**options, "URL": down},
        "bills": {"PREFX": 1},
        "-": {"A": 1, "B": 2},
    }
    with_items_in_all_states(orders)
    documented = {}
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \|", METRICS, re.MULTILINE):
        documented[name.removesuffix("_total")] = (kind, set(re.findall(r"\w+", labels)))
    found = {}
    for name, family in families_of(openmetrics).items():
        assert family.documentation
        samples = [(sample.name, tuple(sample.labels.items())) for sample in family.samples]
        assert len(set(samples)) == len(samples)
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    if openmetrics:
        documented["srq"] = documented.pop("srq_info")
    else:
        documented["srq_info"] = ("gauge", {"version"})
    assert found == documented


def test_large_gauges_keep_all_their_digits(orders, client):
    """The short form %g would make 1.23457e+06 of 1234567."""
    many = 1_234_567
    queue, items = orders.keys["queue"], orders.keys["items"]
    # In many calls, as a long one would make the server refuse other calls meanwhile.
    fill = "local uids = {} for i = 1, ARGV[1] do uids[i] = i end redis.call('RPUSH', KEYS[1], unpack(uids))"
    for done in range(0, many - 1, 7_000):
        client.eval(fill, 1, queue, min(7_000, many - 1 - done))
    uid = f"{(client.time()[0] - many) * 1000:012x}7000800{0:013}"  # holds the time of the oldest put
    client.hset(items, uid, "1")
    client.rpush(queue, uid)
    samples = samples_of(with_token("metrics"))
    assert samples['srq_items{queue="orders",state="ready"}'] == str(many)
    assert many <= float(samples['srq_oldest_age_seconds{queue="orders"}']) < many + 60


def test_label_values_are_escaped(orders, settings):
    alias = 'a"b\\c\nd'
    settings.SRQ_QUEUES = {alias: next(iter(settings.SRQ_QUEUES.values()))}
    text = with_token("metrics").content.decode()
    assert 'srq_up{queue="a\\"b\\\\c\\nd"} 1' in text


def test_status_json_equals_the_output_of_the_command(orders, capsys):
    from django.core.management import call_command

    call_command("srq_status", "--format", "json")
    told, read = json.loads(capsys.readouterr().out), with_token("status.json").json()
    assert list(told) == list(read)
    assert list(told["queues"][0]) == list(read["queues"][0])
