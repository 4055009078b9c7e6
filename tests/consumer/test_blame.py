"""Every failure and every death of a handler is attributed to its item, and the items behind it are handled."""

from __future__ import annotations

import json
import resource
import traceback
import tracemalloc

import pytest

from django_srq import PayloadError, RetryLater, queues
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.queue.backoff import Backoff, delay_after
from django_srq.queue.failure import MESSAGE_MOST, TRACEBACK_MOST, describe, is_exhaustion
from django_srq.queue.serializers import Raw
from tests.support.odd_handlers import Breaking, Nowhere, Odd, OddSerializer, WrongDelay
from tests.support.waiting import PATIENT


@pytest.fixture
def one(project, server_url, prefix):
    """Makes a queue with one of the handlers of odd_handlers."""

    def make(handler: str, **options: object):
        queue = {"HANDLER": f"tests.support.odd_handlers.{handler}", "LEASE": 600, "BACKOFF": {"base": 1000}, **options}
        project.configure({"q": queue}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
        return queues["q"]

    return make


RAISED = [
    "Odd",
    "GeneratorExit",
    "KeyboardInterrupt",
    "CancelledError",
    "SystemExit",
    "Leaves",
    "Nowhere",
    "WrongDelay",
]


@pytest.mark.parametrize("handler", ["raising", "raising_async"])
def test_any_error_of_a_handler_fails_its_item(project, one, handler):
    queue = one(handler, MAX_DELIVERIES=1)
    queue.put_many([*RAISED, "good"])
    assert project.run("srq_consume", "--burst", "--max-items", str(len(RAISED) + 1))[0] == 0
    assert project.lines() == [*RAISED, "good"]  # each once, all in the same child
    assert [item.payload for item in queue.items("dead")] == RAISED
    for item in queue.items("dead"):
        assert item.delivery.error["type"].rpartition(".")[2] == item.payload
        assert "in raising" in item.delivery.error["traceback"]


@pytest.mark.parametrize("handler", ["raising", "raising_in_batch"])
def test_an_error_that_ends_the_process_when_it_is_described_is_a_crash(project, one, handler):
    queue = one(handler, HANDLER_BATCH=2 if handler == "raising_in_batch" else 1)
    queue.put_many(["Exits", "good", "ExitsWell", "good"])
    assert project.run("srq_consume", "--burst")[0] == 0
    for dead, payload, code in zip(queue.items("dead"), ["Exits", "ExitsWell"], [3, 0], strict=True):
        assert (dead.payload, dead.delivery.crashes, dead.delivery.error["type"]) == (payload, 3, "Crashed")
        assert f"ended with exit code {code} after" in dead.delivery.error["message"]
    assert (project.lines()[-1], project.lines().count("good")) == ("good", 2)
    assert sum(queue.counts().values()) == 2


def test_an_error_that_hangs_when_it_is_described_meets_the_time_limit(project, one):
    queue = one("raising", MAX_CRASHES=1)
    queue.put_many(["Hangs", "good"])
    assert project.run("srq_consume", "--burst", "--time-limit", "1")[0] == 0
    (dead,) = queue.items("dead")
    assert "longer than the time limit" in dead.delivery.error["message"]
    assert project.lines() == ["Hangs", "good"]


@pytest.mark.parametrize("handler", ["leaking", "opening"])
def test_after_a_handler_that_exhausts_the_file_descriptors_the_next_item_is_handled(project, one, handler):
    """The next item needs a process that can open files: a new process, if the handler keeps its files."""
    queue = one(handler, MAX_DELIVERIES=1)
    queue.put_many(["bad", "good"])
    process = project.start("srq_consume", "--burst", preexec_fn=few_files)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert project.lines() == [handler, "good"]
    (dead,) = queue.items("dead")
    assert (dead.payload, dead.delivery.error["type"]) == ("bad", "OSError")
    assert "Too many open files" in dead.delivery.error["message"]
    assert f"in {handler}" in dead.delivery.error["traceback"]
    assert "restarting the process" in err


@pytest.mark.parametrize(("spare", "kind", "times"), [(4, "OSError", 1), (0, "Crashed", 2)])
def test_a_failure_is_reported_even_if_that_needs_a_new_connection(project, one, spare, kind, times):
    """No connection is open, and the error holds all files that can be opened."""
    queue = one("cut_off", MAX_DELIVERIES=times, MAX_CRASHES=2, TIMEOUT=PATIENT if spare else 1)
    project.add_to_settings(f"from django_srq.consumer.worker import retries\nretries.SPARE = {spare}")
    queue.put_many(["bad", "good"])
    process = project.start("srq_consume", "--burst", preexec_fn=few_files)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert project.lines() == ["opening"] * times + ["good"]
    (dead,) = queue.items("dead")
    assert (dead.payload, dead.delivery.error["type"]) == ("bad", kind)


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


# -- serializers, receivers, logs, backoff


def test_payloads_that_end_the_serializer_are_set_aside(project, one):
    queue = one("raising", SERIALIZER="tests.support.odd_handlers.OddSerializer")
    payloads = ["Odd", "KeyboardInterrupt", "SystemExit", "coroutine", "exit", "good"]
    queue.put_many(payloads)
    code, _, err = project.run("srq_consume", "--burst")
    assert code == 0
    assert project.lines() == ["good"]
    queue.serializer = Raw()  # otherwise looking at the items would end this process too
    dead = {item.delivery.error["type"] for item in queue.items("dead")}
    assert dead == {"django_srq.exceptions.PayloadError", "Crashed"}
    assert queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 5}
    assert "never awaited" not in err


@pytest.mark.parametrize("payload", ["cannot", "leaves", "deferred"])
def test_a_payload_that_ends_the_serializer_cannot_be_put(make_queue, payload):
    with pytest.raises(PayloadError, match="cannot be serialised"):
        make_queue(serializer=OddSerializer).put(payload)


@pytest.mark.parametrize("payload", ["Odd", "SystemExit", "coroutine"])
def test_a_payload_that_ends_the_serializer_is_set_aside_by_get(make_queue, payload):
    queue = make_queue(serializer=OddSerializer)
    queue.put_many([payload, "good"])
    assert queue.get(-1).payload == "good"
    assert queue.counts()["dead"] == 1


def test_a_signal_that_interrupts_the_serializer_is_passed_on(make_queue):
    queue = make_queue(serializer=OddSerializer)
    queue.put("KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        queue.get(-1)
    assert queue.counts()["dead"] == 0


RECEIVERS = """
import sys
from django_srq import signals
from tests.support.odd_handlers import Odd, working
def leave(sender, **about):
    sys.exit(0)
def odd(sender, **about):
    raise Odd
def interrupt(sender, **about):
    raise KeyboardInterrupt
for signal, receiver in {
    signals.consumer_started: leave, signals.item_started: odd, signals.item_acked: interrupt,
    signals.item_failed: leave, signals.item_dead: odd, signals.consumer_stopped: interrupt,
}.items():
    signal.connect(receiver, weak=False)
"""
LOGGING = """
import logging, sys
class Breaking(logging.Handler):
    def emit(self, record):
        raise LookupError("no log")
class Leaving(logging.Filter):
    def filter(self, record):
        sys.exit(0)
LOGGING = {
    "version": 1, "disable_existing_loggers": False,
    "handlers": {"breaking": {"()": "srq_settings.Breaking"}},
    "filters": {"leaving": {"()": "srq_settings.Leaving"}},
    "loggers": {"django_srq": {"handlers": ["breaking"], "level": "INFO"}},
}
"""
FILTERS = 'LOGGING["loggers"]["django_srq.consumer"] = {"filters": ["leaving"], "level": "INFO"}'


@pytest.mark.parametrize("added", [RECEIVERS, RECEIVERS + LOGGING, LOGGING + FILTERS])
@pytest.mark.parametrize("processes", ["1", "0"])
def test_receivers_and_logs_that_raise_stop_nothing(project, one, added, processes):
    if processes == "0":
        # Without child processes, KeyboardInterrupt would stop the consumer.
        added = added.replace("raise KeyboardInterrupt", "raise GeneratorExit")
    queue = one("raising", MAX_DELIVERIES=1)
    project.add_to_settings(added)
    queue.put_many(["Odd", "good", "SystemExit", "good"])
    code, _, err = project.run("srq_consume", "--burst", "--processes", processes)
    assert code == 0, err
    assert project.lines() == ["Odd", "good", "SystemExit", "good"]
    assert queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 2}


def test_a_backoff_that_raises_fails_the_item_all_the_same(queue):
    queue.put_many("ab")

    def handle(item: object) -> None:
        raise LookupError

    assert InProcessConsumer([Subscription(queue, handle, backoff=Breaking())], burst=True).run() == 2
    assert queue.counts()["delayed"] == 2


def test_a_backoff_that_raises_in_a_block(make_queue):
    queue = make_queue(backoff=Breaking())
    queue.put("a")
    with pytest.raises(LookupError), queue.processing(timeout=-1):
        raise LookupError
    assert queue.counts()["delayed"] == 1


async def later(deliveries: int) -> float:
    return 1.0


@pytest.mark.parametrize("delay", [lambda deliveries: -1, lambda deliveries: "soon", lambda deliveries: 1e99, later])
def test_an_invalid_delay_is_replaced_by_the_default_delay(delay):
    class Own(Backoff):
        def delay(self, deliveries):
            return delay(deliveries)

    assert 0.5 <= delay_after(LookupError(), Own(), 1) <= 1
    assert 0.5 <= delay_after(WrongDelay(), Backoff(), 1) <= 1
    assert delay_after(RetryLater(5), Own(), 1) == 5


# -- the description of an error cannot fail


def test_an_error_whose_text_cannot_be_had_says_so():
    class Leaving(Exception):
        def __str__(self) -> str:
            raise SystemExit

    class Deep(Exception):
        def __str__(self) -> str:
            return str(self)

    assert told(Leaving())["message"] == "<its text cannot be had: SystemExit>"
    assert told(Deep())["message"] == "<its text cannot be had: RecursionError>"


def test_an_interruption_during_the_description_of_an_error_is_passed_on():
    class Interrupted(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        describe(Interrupted())


def test_a_text_of_an_odd_class():
    class Text(str):
        def __getitem__(self, part: object) -> str:
            raise LookupError

        encode = __str__ = __getitem__

    class Error(Exception):
        def __str__(self) -> str:
            return Text("x" * 5000)

    assert told(Error())["message"] == "x" * MESSAGE_MOST
    assert told(Text("odd"))["message"] == "odd"


def test_names_of_an_odd_class():
    class Meta(type):
        def __getattribute__(cls, name: str) -> object:
            if name in ("__module__", "__qualname__", "__name__"):
                raise LookupError
            return super().__getattribute__(name)

    class Error(Exception, metaclass=Meta):
        @property
        def __traceback__(self) -> object:
            return 5

        @property
        def __cause__(self) -> object:
            raise LookupError

        @property
        def __class__(self) -> type:
            raise LookupError

    kept = told(Error("x"))
    assert (kept["message"], kept["type"].rpartition(".")[2]) == ("x", "Error")
    assert told(Nowhere())["type"] == "Nowhere"


def test_an_error_that_has_no_class_fails_only_its_item(make_queue):
    class Error(Exception):
        @property
        def __class__(self) -> type:
            raise LookupError

    def handle(item):
        if item.payload == b"a":
            raise Error("x")

    queue = make_queue(max_deliveries=1)
    odd, _ = queue.put_many("ab")
    InProcessConsumer([Subscription(queue, handle)], options=ConsumerOptions(burst=True)).run()
    assert queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 1}
    assert [item.uid for item in queue.items("dead")] == [odd]


def test_circular_and_very_long_chains_of_causes():
    one, other = LookupError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert "direct cause of" in told(one)["traceback"]
    assert told(one)["traceback"].endswith("LookupError: one\n")
    last = first = LookupError("first")
    for number in range(100_000):
        last = ValueError(number)
        last.__context__, first = first, last
    assert told(last)["traceback"].endswith("ValueError: 99999\n")


@pytest.mark.parametrize("notes", [5, ["fine", 5, None], "text", [["x"] * 100], ["long" * 10**6] * 100])
def test_notes_of_any_type(notes):
    error = LookupError("x")
    error.__notes__ = notes
    assert "LookupError: x\n" in told(error)["traceback"] or len(told(error)["traceback"]) == TRACEBACK_MOST


def test_a_group_of_thousands():
    group = ExceptionGroup("many", [ValueError(number) for number in range(50_000)])
    kept = told(BaseExceptionGroup("all", [group, Odd("odd")]))
    assert "all (2 sub-exceptions)" in kept["message"]
    assert "ValueError: 0\n" in kept["traceback"]
    assert "Odd: odd" in kept["traceback"]


@pytest.mark.parametrize("given", [list(range(10**6)), dict.fromkeys(range(10**6)), b"x" * 10**8, "x" * 10**8])
def test_the_work_for_a_huge_text_is_bounded(given):
    error = ValueError(given)
    tracemalloc.start()
    try:
        kept = told(error)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert len(kept["message"]) <= MESSAGE_MOST


def test_a_traceback_that_cannot_be_formatted(monkeypatch):
    def fail(*args: object, **named: object) -> list[str]:
        raise MemoryError

    error = raised()
    monkeypatch.setattr(traceback, "format_tb", fail)
    assert "<its frames cannot be had>" in told(error)["traceback"]
    assert "RecursionError: maximum recursion depth exceeded" in told(error)["traceback"]


def raised() -> RecursionError:
    def deeper() -> None:
        deeper()

    try:
        deeper()
    except RecursionError as error:
        return error
    raise AssertionError


def test_the_frames_of_an_endless_recursion():
    kept = told(raised())
    assert len(kept["traceback"]) <= TRACEBACK_MOST
    assert kept["fingerprint"].endswith("deeper")


def test_exhaustion_is_recognised_behind_other_errors():
    error = ValueError("x")
    error.__context__ = OSError(24, "Too many open files")
    assert is_exhaustion(error)
    assert is_exhaustion(MemoryError())
    assert is_exhaustion(RuntimeError("can't start new thread"))
    assert not is_exhaustion(OSError(2, "No such file"))


def told(error: BaseException | str) -> dict[str, str]:
    return json.loads(describe(error))
