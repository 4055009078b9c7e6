"""A task is put after all open transactions of its thread, and never when one of them rolled back."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections, transaction
from django.db.utils import ConnectionDoesNotExist
from django.tasks import default_task_backend
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_enqueued

from django_srq import ConfigurationError, OutcomeUnknown, PayloadError, QueueUnavailable, queues
from tests.support.proxy import Proxy
from tests.tasks import shop

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("tasks", "second_database")]


@pytest.fixture
def second_database(django_db_blocker, tmp_path):
    """The database "second", beside the default one; the transactions of both are real."""
    connections.settings["second"] = {**connections.settings["default"], "NAME": str(tmp_path / "second")}
    with django_db_blocker.unblock():
        yield
        connections["second"].close()
    del connections["second"]
    del connections.settings["second"]


class Undone(Exception):
    """Rolls a transaction back."""


def ready():
    return queues["default"].counts()["ready"]


def test_outside_of_transactions_at_once():
    shop.add.enqueue(1)
    assert ready() == 1


def test_after_the_commit():
    with transaction.atomic():
        result = shop.add.enqueue(1)
        assert ready() == 0
        with pytest.raises(TaskResultDoesNotExist):
            result.refresh()
        with transaction.atomic():
            inner = shop.add.enqueue(2)
        assert ready() == 0
    assert ready() == 2
    assert default_task_backend.get_result(result.id) == result
    assert default_task_backend.get_result(inner.id) == inner


def test_never_after_a_rollback():
    with pytest.raises(Undone), transaction.atomic():
        shop.add.enqueue(1)
        raise Undone
    with transaction.atomic():
        with pytest.raises(Undone), transaction.atomic():
            shop.add.enqueue(2)
            raise Undone
        shop.add.enqueue(3)
    assert [item.payload["args"] for item in queues["default"].items()] == [[3]]


@pytest.mark.parametrize("outer", ["default", "second"])
def test_after_the_last_of_several_transactions(outer):
    inner = "second" if outer == "default" else "default"
    with transaction.atomic(using=outer):
        with transaction.atomic(using=inner):
            shop.add.enqueue(1)
        assert ready() == 0
    assert ready() == 1


@pytest.mark.parametrize("undone", ["outer", "inner"])
@pytest.mark.parametrize("outer", ["default", "second"])
def test_never_if_one_of_several_rolled_back(outer, undone):
    inner = "second" if outer == "default" else "default"

    def end(which):
        if which == undone:
            raise Undone

    with suppress(Undone), transaction.atomic(using=outer):
        try:
            with transaction.atomic(using=inner):
                shop.add.enqueue(1)
                end("inner")
        except Undone:
            pass
        end("outer")
    assert ready() == 0


def test_a_block_within_one_of_several_rolled_back():
    with transaction.atomic(using="second"), transaction.atomic(using="default"):
        try:
            with transaction.atomic(using="second"):
                shop.add.enqueue(1)
                raise Undone
        except Undone:
            pass
    assert ready() == 0


def test_a_transaction_of_another_thread_is_not_waited_for():
    with transaction.atomic():
        thread = threading.Thread(target=lambda: shop.add.enqueue(1))
        thread.start()
        thread.join()
        assert ready() == 1


@pytest.mark.parametrize(
    ("option", "waits_for_default", "waits_for_second"),
    [
        (True, True, True),
        (False, False, False),
        ("default", True, False),
        ("second", False, True),
        (["second"], False, True),
        (["default", "second"], True, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("by", ["backend", "task"])
def test_which_transactions_it_waits_for(tasks, by, option, waits_for_default, waits_for_second):
    if by == "backend":
        tasks(ON_COMMIT=option)
        task = shop.add
    else:
        tasks(ON_COMMIT=option is False)
        task = shop.add.using(on_commit=option)
    for alias, waits in (("default", waits_for_default), ("second", waits_for_second)):
        queues["default"].purge()
        with transaction.atomic(using=alias):
            task.enqueue(1)
            assert ready() == (0 if waits else 1)
        assert ready() == 1


def test_an_alias_of_no_database(tasks):
    tasks(ON_COMMIT=["third"])
    with pytest.raises(ConnectionDoesNotExist, match="third"):
        shop.add.enqueue(1)
    assert ready() == 0


def test_all_that_is_enqueued_keeps_its_order():
    with transaction.atomic():
        shop.add.enqueue(1)
        shop.add.enqueue_many([(2,), (3,)])
        shop.add.enqueue(4)
        assert ready() == 0
    assert [item.payload["args"] for item in queues["default"].items()] == [[1], [2], [3], [4]]


def test_arguments_are_those_of_the_call():
    argument = [1]
    with transaction.atomic():
        shop.plain.enqueue(argument)
        argument.append(2)
        with pytest.raises(PayloadError):
            shop.plain.enqueue(float("nan"))
    (item,) = queues["default"].items()
    assert item.payload["args"] == [[1]]


def test_the_signal_comes_after_the_commit():
    received = []

    def receive(task_result, **_):
        received.append(task_result.id)

    task_enqueued.connect(receive)
    try:
        with transaction.atomic():
            result = shop.add.enqueue(1)
            assert received == []
        assert received == [result.id]
    finally:
        task_enqueued.disconnect(receive)


def test_unique_tasks_of_one_transaction():
    unique = shop.add.using(unique=True)
    with transaction.atomic():
        assert unique.enqueue(1).id == unique.enqueue(1).id
    assert ready() == 1
    with transaction.atomic():
        unique.enqueue(1)
    assert ready() == 1


def test_while_autocommit_is_off():
    """Nothing tells when such a transaction commits."""
    transaction.set_autocommit(False)
    try:
        with pytest.raises(transaction.TransactionManagementError, match="autocommit of the database 'default' is off"):
            shop.add.enqueue(1)
        shop.add.using(on_commit=False).enqueue(1)
        shop.add.using(on_commit="second").enqueue(1)
        assert ready() == 2
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


# -- asynchronously


def test_aenqueue_in_a_transaction():
    """Its transactions are those of the thread that waits for the event loop, and does its synchronous work."""

    async def enqueue():
        result = await shop.add.aenqueue(1)
        assert await queues["default"].acounts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0}
        return result

    with transaction.atomic():
        async_to_sync(enqueue)()
    assert ready() == 1


def test_aenqueue_in_a_transaction_that_is_begun_by_hand():
    async def enqueue():
        block = transaction.atomic()
        await sync_to_async(block.__enter__)()
        await shop.add.aenqueue(1)
        await shop.add.aenqueue_many([(2,), (3,)])
        before = await queues["default"].acounts()
        await sync_to_async(block.__exit__)(None, None, None)
        return before["ready"]

    assert async_to_sync(enqueue)() == 0
    assert ready() == 3


def test_aenqueue_outside_of_transactions():
    asyncio.run(shop.add.aenqueue(1))
    assert ready() == 1


# -- the put fails after the commit


def test_a_server_that_is_away(tasks, dead_port, prefix):
    tasks(URL=f"redis://127.0.0.1:{dead_port}", PUT_TIMEOUT=0.2)
    text = (
        r"the transaction is committed, but the task tests\.tasks\.shop\.add \(%s\) is not enqueued: enqueue it again; "
        "what waited for the commit behind it is not enqueued either$"
    )
    with pytest.raises(QueueUnavailable) as caught, transaction.atomic():
        result = shop.add.enqueue(1)
        connection.cursor().execute("CREATE TABLE kept (a int)")
    assert caught.match(text % result.id)
    assert "kept" in connection.introspection.table_names()
    connection.cursor().execute("DROP TABLE kept")
    with (
        pytest.raises(
            QueueUnavailable, match=r"the transaction is committed, but not all of 2 tasks .* are enqueued; "
        ),
        transaction.atomic(),
    ):
        shop.add.enqueue_many([(1,), (2,)])


def test_a_robust_put_lets_the_request_go_on_and_names_each_task(tasks, dead_port, caplog):
    tasks(URL=f"redis://127.0.0.1:{dead_port}", PUT_TIMEOUT=0.2, ROBUST=True)
    called = []
    with transaction.atomic():
        results = [shop.add.enqueue(number) for number in range(2)]
        transaction.on_commit(lambda: called.append(1))
    assert called == [1]
    said = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert [
        result.id in text and text.endswith("enqueue it again") for result, text in zip(results, said, strict=True)
    ] == [True] * 2


def test_a_lost_reply(tasks, server_url):
    proxy = Proxy(server_url)
    tasks(URL=proxy.url, PUT_TIMEOUT=0.3)
    shop.add.enqueue(0)
    try:
        with pytest.raises(OutcomeUnknown) as caught, transaction.atomic():
            result = shop.add.enqueue(1)
            proxy.arm("lose reply", times=10_000)
    finally:
        proxy.close()
    assert caught.match(rf"ask get_result\('{result.id}'\) before you enqueue it again; the transaction is committed")
    assert caught.match(r"the task .* may not be enqueued; ")


def test_a_wrong_configuration_is_seen_before_the_commit(tasks):
    with transaction.atomic():
        tasks(RATE="many")
        with pytest.raises(ConfigurationError, match=r"TASKS\['default'\]\['OPTIONS'\]\['RATE'\] must be"):
            shop.add.enqueue(1)
