"""A queue whose deliveries fail is reported as such, while it goes on, everywhere and in the same words."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import translation

from django_srq import RetryLater, queues, status
from django_srq.operations import Counts
from django_srq.operations.replies import FailingGroup
from django_srq.status import failures, prometheus, series, verdicts
from django_srq.status.failures import Failures
from tests.support.server_clock import now, pass_minutes
from tests.support.waiting import wait_for

pytestmark = pytest.mark.versions


class Gateway:
    @staticmethod
    def charge() -> None:
        raise TimeoutError("no answer")


def unpack() -> None:
    raise KeyError("sku")


@pytest.fixture
def orders(settings, server_url, prefix, client):
    """A queue in the first 50 seconds of a minute, so that no minute ends during a test."""
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": prefix, "HANDLER": "tests.support.handlers.note"}}
    settings.SRQ_ADMIN = {"TIMEOUT": 10, "TOKEN": "t0p-secret"}
    wait_for(lambda: now(client) % 60_000 < 50_000, "the next minute")
    return queues["orders"]


def deliver(queue, fails: int, acks: int = 0, work: Callable[[], None] = Gateway.charge, delay: float = 600) -> None:
    queue.put_many(range(fails + acks))
    for number in range(fails + acks):
        item = queue.get(-1)
        if number < acks:
            queue.ack(item)
        else:
            try:
                work()
            except Exception as error:
                queue.fail(item, error, delay=delay)


def erring(snapshot: status.Snapshot) -> list[verdicts.Finding]:
    return [finding for finding in snapshot.findings if finding.kind == "erring"]


# -- from which share on


@pytest.mark.parametrize(
    ("fails", "acks", "level"),
    [
        (9, 0, "ok"),
        (10, 0, "error"),
        (9, 1, "error"),
        (18, 3, "warning"),
        (2, 8, "warning"),
        (3, 13, "ok"),
        (0, 20, "ok"),
    ],
)
def test_the_level_depends_on_the_share_of_failures(orders, fails, acks, level):
    deliver(orders, fails, acks)
    snapshot = status.snapshot()
    assert [finding.level for finding in erring(snapshot)] == ([] if level == "ok" else [level])
    (report,) = snapshot.queues
    assert (report.level, report.state) == (level, "ok" if level == "ok" else "erring")
    assert snapshot.level == level
    assert report.failures.share == fails / (fails + acks)


def test_what_counts_as_a_delivery():
    def failures_in(*periods: series.Period) -> Failures:
        return failures.failures_of(COUNTS, series.Series(periods))

    assert failures_in(series.Period(None, put=100, acked=3, failed=5, recovered=2, dead=1)) == Failures(10, 7)
    assert failures_in(series.Period(None, acked=4, failed=9, postponed=6)) == Failures(7, 3)
    old = series.Period(None, failed=100)
    assert failures_in(old, *[series.Period(None, acked=1)] * 6) == Failures(6, 0)
    assert failures_in(*[series.Period(None, acked=1)] * 5, old) == Failures(105, 100)
    assert failures_in().share is None
    assert (Failures(1000, 999).percent, Failures(1000, 1000).percent, Failures(0, 0).percent) == (99, 100, 0)
    assert [Failures(1000, n).level for n in (194, 195, 894, 895)] == ["ok", "warning", "warning", "error"]


def test_recovered_deliveries_have_failed(orders, client):
    orders.put_many(range(10))
    for _ in range(10):
        orders.get(-1)
    client.zadd(orders.keys["leases"], dict.fromkeys(client.zrange(orders.keys["leases"], 0, -1), 1))
    orders.recover()
    (finding,) = erring(status.snapshot())
    assert finding.text == "orders fails: 100 % of 10 deliveries in 5 min."


# -- what it says


def test_the_sentence(orders):
    deliver(orders, 1138, 103, delay=0)
    orders.purge()
    deliver(orders, 475)
    orders.put_many(range(9), delay=600)
    (finding,) = erring(snapshot := status.snapshot())
    assert str(finding) == (
        "orders fails: 94 % of 1,716 deliveries in 5 min, mostly TimeoutError in Gateway.charge; 475 wait to be tried "
        "again. When the cause is gone, manage.py srq_requeue orders --state delayed makes them ready now. "
        "To see them: manage.py srq_show orders --state retrying"
    )
    (queue,) = snapshot.to_dict()["queues"]
    assert (queue["delayed"], queue["retrying"], snapshot.queues[0].scheduled) == (484, 475, 9)
    metrics = prometheus.exposition(snapshot, openmetrics=False)
    assert 'srq_items{queue="orders",state="scheduled"} 9' in metrics
    assert 'srq_items{queue="orders",state="retrying"} 475' in metrics


def test_a_single_item_waits(orders):
    deliver(orders, 9, delay=0)
    orders.purge()
    deliver(orders, 1)
    assert erring(status.snapshot())[0].text.endswith(
        "in 5 min, mostly TimeoutError in Gateway.charge; 1 waits to be tried again."
    )


def test_deliveries_that_a_handler_postponed_are_left_out(orders):
    orders.put_many(range(40))
    for _ in range(30):
        orders.fail(orders.get(-1), RetryLater(delay=600), delay=600)
    for _ in range(10):
        orders.ack(orders.get(-1))
    snapshot = status.snapshot()
    assert erring(snapshot) == []
    (report,) = snapshot.queues
    assert (report.failures.ended, report.failures.share) == (10, 0)
    assert (report.delayed, report.retrying) == (30, 0)
    assert 'srq_postponed_total{queue="orders"} 30' in prometheus.exposition(snapshot, openmetrics=False)


def test_dead_items_name_the_error(orders):
    orders.max_deliveries = 1
    deliver(orders, 12, 8)
    (finding,) = erring(status.snapshot())
    assert str(finding) == (
        "orders fails: 60 % of 20 deliveries in 5 min, mostly TimeoutError in Gateway.charge. "
        "To see the dead items: manage.py srq_show orders --state dead"
    )


def test_the_advice_when_all_items_are_ready_again_at_once(orders):
    deliver(orders, 12, 8, delay=0)
    (finding,) = erring(status.snapshot())
    assert str(finding) == ("orders fails: 60 % of 20 deliveries in 5 min. The log of its consumers has the errors.")


def test_no_error_is_named_that_is_not_of_more_than_half(orders):
    orders.max_deliveries = 1
    deliver(orders, 10)
    deliver(orders, 10, work=unpack)
    assert "mostly" not in erring(status.snapshot())[0].text
    deliver(orders, 1, work=unpack)
    assert "mostly KeyError in unpack" in erring(status.snapshot())[0].text


def test_items_that_died_long_ago_do_not_name_the_error(orders, client):
    orders.max_deliveries = 1
    deliver(orders, 30, work=unpack)
    groups = orders.keys["deadgroups"]
    ((name, entry),) = client.hgetall(groups).items()
    number, _first, _last, uid = entry.split()
    client.hset(groups, name, b" ".join([number, b"1", b"%d" % (now(client) - 7 * 60_000), uid]))
    pass_minutes(client, orders.keys, 7)
    deliver(orders, 12)
    assert "mostly TimeoutError" in erring(status.snapshot())[0].text


GROUP = "TimeoutError gateway.py:charge"


@pytest.mark.parametrize(
    ("counts", "deaths", "recovered", "failed", "named"),
    [
        ({"retrying": 10, "failing": [FailingGroup(GROUP, 6, 0)]}, 0, 0, 10, True),
        ({"retrying": 10, "failing": [FailingGroup(GROUP, 5, 0)]}, 0, 0, 10, False),
        # Of 500 dead items only as many count as died lately.
        ({"retrying": 0, "failing": [FailingGroup(GROUP, 0, 500)]}, 3, 2, 5, True),
        ({"retrying": 0, "failing": [FailingGroup(GROUP, 0, 500)]}, 3, 3, 6, False),
        # Both groups may have had one death or all but one.
        ({"retrying": 0, "failing": [FailingGroup(GROUP, 0, 500), FailingGroup("b", 0, 400)]}, 9, 0, 9, False),
        ({"retrying": 0, "failing": [FailingGroup(GROUP, 0, 500), FailingGroup("b", 0, 2)]}, 9, 0, 9, True),
        ({"retrying": 0, "failing": [FailingGroup(GROUP, 0, 500)], "failing_rest": 5}, 9, 0, 9, False),
        # The errors of nearly all failures are not known, as the items are ready again at once.
        ({"retrying": 0, "failing": [FailingGroup(GROUP, 0, 4)]}, 4, 0, 81, False),
        ({"retrying": 0, "failing": [FailingGroup(GROUP, 0, 4)]}, 4, 0, 80, True),
        ({"retrying": 9, "failing": [FailingGroup("other", 9, 0)]}, 0, 0, 9, False),
        ({}, 0, 0, 9, False),
    ],
)
def test_when_an_error_is_that_of_more_than_half(counts, deaths, recovered, failed, named):
    told = Counts(None, 0, 0, 0, 0, 0, 0, None, None, None, **counts)
    period = series.Period(None, failed=failed - recovered, recovered=recovered, dead=deaths)
    found = failures.failures_of(told, series.Series([period]))
    assert found.failed == failed
    assert found.error == ("TimeoutError in charge" if named else "")


COUNTS = Counts(None, 0, 0, 0, 0, 0, 0, None, None, None)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("TimeoutError gateway.py:Gateway.charge", "TimeoutError in Gateway.charge"),
        ("shop.errors.Declined my file.py:pay.<locals>.inner", "Declined in pay.<locals>.inner"),
        ("Crashed: killed by SIGKILL", "Crashed: killed by SIGKILL"),
        ("Failed: card declined", "Failed: card declined"),
        ("Failed: password=hunter2", "Failed: password=***"),
        ("ConsumerLost", "ConsumerLost"),
        ("shop.tasks.pay: shop.errors.Declined gateway.py:charge", "shop.tasks.pay: Declined in charge"),
        ("shop.tasks.pay: Failed: password=hunter2", "shop.tasks.pay: Failed: password=***"),
        ("shop.tasks.pay: ConsumerLost", "shop.tasks.pay: ConsumerLost"),
        ("other", ""),
    ],
)
def test_how_an_error_is_named(group, said):
    assert failures._named(group) == said.replace("***", failures.redacted_text("password=x").partition("=")[2])


# -- where it is said, and when it is over


def test_the_same_is_said_everywhere_and_is_gone_by_itself(orders, client):
    def metrics() -> str:
        return prometheus.exposition(status.snapshot(minutes=0), openmetrics=False)

    def ask(view: str):
        return Client().get(f"/srq/{view}", headers={"Authorization": "Bearer t0p-secret"})

    orders.max_deliveries = 1
    deliver(orders, 19, 1)
    sentence = "orders fails: 95 % of 20 deliveries in 5 min, mostly TimeoutError in Gateway.charge."
    for said in (status.snapshot().sentence, ask("health").json()["sentence"], ask("status.json").json()["sentence"]):
        assert said.startswith(sentence)
    assert (ask("health").status_code, ask("health").json()["level"]) == (503, "error")
    (queue,) = ask("status.json").json()["queues"]
    assert (queue["state"], queue["level"], queue["failure_ratio"]) == ("erring", "error", 0.95)
    assert 'srq_failure_ratio{queue="orders"} 0.95' in metrics()
    assert 'srq_finding{kind="erring",level="error",queue="orders"} 1' in metrics()
    out = io.StringIO()
    with pytest.raises(CommandError) as ended:
        call_command("srq_status", "--check", stdout=out)
    assert (ended.value.returncode, out.getvalue().startswith(f"Error: {sentence}")) == (3, True)

    pass_minutes(client, orders.keys, 5)
    assert erring(status.snapshot()) != []
    pass_minutes(client, orders.keys, 1)
    (report,) = (snapshot := status.snapshot()).queues
    assert (erring(snapshot), report.state) == ([], "failing")  # there are dead items
    assert ask("health").status_code == 200
    assert ask("status.json").json()["queues"][0]["failure_ratio"] is None
    assert "srq_failure_ratio{" not in metrics()


@pytest.mark.django_db
def test_the_page_says_it(orders, admin_client):
    deliver(orders, 12)
    page = admin_client.get("/admin/django_srq/queuestatus/").content.decode()
    assert "orders fails: 100 % of 12 deliveries in 5 min" in page
    assert 'class="srq-state srq-error">erring<' in page
    assert re.search(r'href="[^"]+/orders/\?state=delayed">Show delayed items</a>', page)
    assert "srq_requeue" not in page


def test_an_erring_queue_comes_behind_errors_of_another_kind_and_before_warnings(settings, orders):
    (options,) = settings.SRQ_QUEUES.values()
    settings.SRQ_QUEUES = {
        "mail": {**options, "PREFIX": options["PREFIX"] + "m"},
        "orders": options,
        "bills": {**options, "PREFIX": options["PREFIX"] + "b"},
    }
    queues["mail"].pause()
    queues["bills"].put(1)
    deliver(orders, 12)
    found = [(finding.kind, finding.level) for finding in status.snapshot().findings if finding.level != "note"]
    assert found == [("stuck", "error"), ("erring", "error"), ("paused", "warning")]


def test_a_queue_that_errs_within_a_paused_one_keeps_its_json(orders):
    deliver(orders, 4, 6)
    orders.pause()
    (queue,) = json.loads(json.dumps(status.snapshot().to_dict()))["queues"]
    assert (queue["state"], queue["level"]) == ("erring", "warning")
    assert queue["paused"] is not None


def test_the_sentence_in_german(orders):
    deliver(orders, 12, 8)
    with translation.override("de"):
        (finding,) = erring(status.snapshot())
    assert finding.text == (
        "orders schlägt fehl: 60 % von 20 Zustellungen in 5 min, meist TimeoutError in Gateway.charge; "
        "12 warten auf einen neuen Versuch."
    )


def test_the_command_that_the_advice_names_makes_the_items_ready(orders):
    deliver(orders, 12)
    (named,) = re.findall(r"manage\.py (srq_requeue .+?) makes them ready", erring(status.snapshot())[0].advice)
    call_command(*named.split(), "--no-input", stdout=io.StringIO(), stderr=io.StringIO())
    assert (orders.counts()["ready"], orders.counts()["delayed"]) == (12, 0)
