"""The views for machines: who may call them, and that they report the status."""

from __future__ import annotations

import json
import re

import pytest
from django.test import Client

from django_srq import queues
from tests.admin.test_admin import PERMISSIONS, visitor

pytestmark = [pytest.mark.django_db, pytest.mark.versions]

VIEWS = ["status.json", "metrics", "health", "live"]


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


def test_status(orders):
    orders.put(1)
    response = with_token("status.json")
    (queue,) = response.json()["queues"]
    assert (queue["queue"], queue["ready"], queue["state"]) == ("orders", 1, "stuck")
    assert "no-store" in response.headers["Cache-Control"]


def test_health(orders):
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


def test_metrics(orders):
    orders.put_many([1, 2, 3])
    orders.ack(orders.get(-1))
    response = with_token("metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = samples_of(response)
    assert samples['srq_up{queue="orders"}'] == "1"
    assert samples['srq_ready{queue="orders"}'] == "2"
    assert samples['srq_put_total{queue="orders"}'] == "3"
    assert samples['srq_acked_total{queue="orders"}'] == "1"
    assert samples['srq_process_seconds_count{queue="orders"}'] == "1"
    assert samples['srq_process_seconds_bucket{queue="orders",le="+Inf"}'] == "1"
    buckets = [int(value) for name, value in samples.items() if name.startswith("srq_wait_seconds_bucket")]
    assert buckets == sorted(buckets)
    # Each metric family has its HELP and TYPE once, before its samples.
    families = re.findall(r"^# TYPE (\w+) ", response.content.decode(), re.MULTILINE)
    assert len(families) == len(set(families))
    for name in samples:
        assert re.sub(r"(_bucket|_count)?\{.*", "", name) in families, name


def test_large_gauges_keep_all_their_digits(orders, client):
    """The short form %g would make 1.23457e+06 of 1234567."""
    many = 1_234_567
    queue, items = orders.keys["queue"], orders.keys["items"]
    client.eval("for i = 1, ARGV[1] do redis.call('RPUSH', KEYS[1], i) end", 1, queue, many - 1)
    uid = f"{(client.time()[0] - many) * 1000:012x}7000800{0:013}"  # holds the time of the oldest put
    client.hset(items, uid, "1")
    client.rpush(queue, uid)
    samples = samples_of(with_token("metrics"))
    assert samples['srq_ready{queue="orders"}'] == str(many)
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
