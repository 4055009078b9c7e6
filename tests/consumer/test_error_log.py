"""How the log tells of items that failed: words, levels, fields and tracebacks, without payloads and secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sentry_sdk
from asgiref.sync import sync_to_async
from django.utils.log import AdminEmailHandler
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from django_srq import Discard, RetryLater
from django_srq.consumer import InProcessConsumer, Subscription, adapt
from django_srq.consumer.logged_errors import ErrorView
from django_srq.queue.backoff import Backoff
from django_srq.queue.failure import describe
from django_srq.queue.masking import Secrets
from django_srq.queue.serializers import BY_NAME

CARD, TOKEN = "4111-1111", "abc123"
TEXT, MASKED = "no %s for token=%s", "no customer for token=[…]"  # not in the line that raises, which tracebacks quote


def refuse(payload: object) -> None:
    card = payload  # noqa: F841 (a variable, which collectors would read from the frame)
    raise LookupError(TEXT % ("customer", TOKEN))


async def arefuse(payload: object) -> None:
    await sync_to_async(refuse)(payload)


def refuse_all(payloads: list[object]) -> None:
    refuse(payloads[0])


def consume(queue, handler, *, batch: int = 1, asynchronous: bool = False, on_loop: bool = True, **options) -> None:
    handle = adapt(handler, on_loop=on_loop, batch=batch > 1)
    more = {"backoff": Backoff(base=1000), "batch": batch, "asynchronous": asynchronous, **options}
    InProcessConsumer([Subscription(queue, handle, **more)], burst=True).run()


@pytest.fixture
def told(caplog):
    """The records about items, at any level."""
    caplog.set_level("DEBUG", "django_srq.consumer")
    return lambda: [record for record in caplog.records if hasattr(record, "outcome")]


def printed(record: logging.LogRecord) -> str:
    return logging.Formatter("%(levelname)s %(message)s").format(record)


# -- words, levels and fields


def raising(error: BaseException):
    def handler(payload: object) -> None:
        raise error

    return handler


@pytest.mark.parametrize(
    ("handler", "level", "words", "fields", "traced"),
    [
        (lambda payload: None, "INFO", "acked", ("acked", None, None, None), False),
        (raising(Discard("too old")), "WARNING", "discarded", ("discarded", None, None, "too old"), False),
        (
            raising(RetryLater(1000, "not yet")),
            "INFO",
            "postponed by its handler",
            ("failed", "RetryLater", "delayed", "not yet"),
            False,
        ),
        (
            raising(LookupError("a\nb")),
            "WARNING",
            "failed, will be tried again",
            ("failed", "LookupError", "delayed", "a b"),
            True,
        ),
    ],
    ids=["acked", "discarded", "postponed", "retried"],
)
def test_each_outcome_has_its_words_its_level_and_its_fields(queue, told, handler, level, words, fields, traced):
    uid = queue.put(CARD)
    consume(queue, handler)
    (record,) = told()
    assert (record.levelname, record.msg.partition(" queue=%s uid=%s deliveries=%d duration=%.3f")[0]) == (level, words)
    assert (record.outcome, record.error, record.state, record.reason) == fields
    assert (record.queue, record.uid, record.deliveries) == (queue.alias, uid, 1)
    assert record.duration >= 0
    assert bool(record.exc_info) is traced
    assert f"{words} queue={queue.alias} uid={uid} deliveries=1 duration=0.0" in record.getMessage()


@pytest.mark.parametrize("error", [LookupError("no"), RetryLater(1000, "no")])
def test_the_last_failure_of_an_item_is_an_error(make_queue, told, error):
    queue = make_queue(max_deliveries=1)
    queue.put(CARD)
    consume(queue, raising(error))
    (record,) = told()
    assert (record.levelname, record.state, record.reason) == ("ERROR", "dead", "no")
    assert record.msg.startswith("failed, now dead queue=%s")
    assert record.exc_info[0] is type(error)


def test_a_failure_after_the_lease_was_lost_is_a_warning(make_queue, told):
    queue = make_queue()
    queue.put(CARD)

    def handler(payload: object, item: object) -> None:
        queue.ack(item)
        refuse(payload)

    consume(queue, handler)
    (record,) = told()
    assert (record.levelname, record.state, record.error) == ("WARNING", "lost", "LookupError")
    assert record.msg.startswith("failed after its lease was lost queue=%s")
    assert record.exc_info


def test_a_payload_that_cannot_be_decoded_has_the_fields_too(make_queue, told, client):
    queue = make_queue(serializer=BY_NAME["json"]())
    uid = queue.put("a")
    client.hset(queue.keys["items"], uid, b'{"card": "4111-1111')
    consume(queue, refuse)
    (record,) = told()
    about = record.levelname, record.queue, record.uid, record.deliveries, record.outcome, record.error, record.state
    assert about == ("ERROR", queue.alias, uid, 1, "failed", "PayloadError", "dead")
    assert record.msg.startswith("payload cannot be decoded, item set aside queue=%s uid=%s")
    assert CARD not in printed(record)
    assert record.exc_info


def test_a_serializer_that_quotes_the_payload_in_its_error_tells_it_nobody(make_queue, told):
    class Strict(BY_NAME["raw"]):
        def loads(self, data):
            raise LookupError(TEXT % (data, TOKEN))

    queue = make_queue(serializer=Strict())
    queue.put(CARD)
    consume(queue, refuse)
    (record,) = told()
    (item,) = queue.items("dead")
    for text in (printed(record), item.delivery.error["message"], item.delivery.error["traceback"]):
        assert "(LookupError)" in text
        assert CARD not in text
    assert "\nLookupError\n" in printed(record)


def test_the_traceback_of_a_batch_is_logged_once_and_for_each_dead_item(make_queue, told):
    for most, traced in ((9, [True, False, False]), (1, [True, True, True])):
        queue = make_queue(max_deliveries=most, name_suffix=str(most))
        queue.put_many("abc")
        consume(queue, refuse_all, batch=3)
        assert [bool(record.exc_info) for record in told()[-3:]] == traced


# -- tracebacks


@pytest.mark.parametrize(
    "how",
    [
        {"handler": refuse},
        {"handler": refuse_all, "batch": 2},
        {"handler": arefuse, "asynchronous": True},
        {"handler": arefuse, "on_loop": False},
    ],
    ids=["sync", "batch", "async", "async on a loop of its own"],
)
def test_a_traceback_begins_in_the_project(queue, told, how):
    queue.put(CARD)
    consume(queue, **how)
    (record,) = told()
    (item,) = queue.items("delayed")
    first = f'File "{__file__}", line'
    for text in (printed(record).partition("Traceback")[2], item.delivery.error["traceback"].partition("Traceback")[2]):
        assert text.splitlines()[1].strip().startswith(first), text
        assert "in refuse\n" in text


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_traceback_of_a_processing_block_begins_in_the_project(queue, asynchronous):
    queue.put(CARD)

    def block() -> None:
        with queue.processing() as item:
            refuse(item.payload)

    async def ablock() -> None:
        async with queue.aprocessing() as item:
            refuse(item.payload)

    from asgiref.sync import async_to_sync

    with pytest.raises(LookupError):
        async_to_sync(ablock)() if asynchronous else block()
    (item,) = queue.items("delayed")
    kept = item.delivery.error["traceback"].splitlines()
    assert kept[1].strip().startswith(f'File "{__file__}", line')
    assert kept[1].endswith("block")


def test_frames_of_this_package_stay_where_there_are_no_others(queue, told):
    queue.put(CARD)
    consume(queue, lambda: None)  # it cannot be called with a payload
    (record,) = told()
    assert "in carry_out" in printed(record)
    (item,) = queue.items("delayed")
    assert "in carry_out" in item.delivery.error["traceback"]


def test_only_the_front_is_cut(queue):
    """A handler that calls the package, such as to put, shows the frames of that call."""

    def handler() -> None:
        queue.put("x", delay="soon")

    with pytest.raises(ValueError, match="delay") as caught:
        handler()
    kept = json.loads(describe(caught.value))["traceback"]
    assert kept.index("in handler") < kept.index("arguments.py")


# -- payloads and secrets


NOTE, MEMBERS = "note about 7, secret=n1", [ValueError("password=m1"), KeyError("b")]


def chained() -> BaseException:
    try:
        try:
            refuse(CARD)
        except LookupError as error:
            error.add_note(NOTE)
            raise ExceptionGroup("all", MEMBERS) from error
    except ExceptionGroup as error:
        return error
    raise AssertionError


def test_secrets_are_masked_and_variables_left_out():
    logged = ErrorView().of(chained())
    text = printed(logging.LogRecord("", 40, "", 0, "x", (), logged.exc_info))
    assert f"LookupError: {MASKED}" in text
    assert "note about 7, secret=[…]" in text
    assert "  | ValueError: password=[…]" in text
    assert "The above exception was the direct cause" in text
    assert "in refuse" in text
    for secret in (TOKEN, "n1", "m1"):
        assert secret not in text
    assert variables(logged.exc_info[1]) == []
    assert (logged.type, logged.reason, logged.exc_info[0]) == (
        "ExceptionGroup",
        "all (2 sub-exceptions)",
        ExceptionGroup,
    )


def variables(error: BaseException | None) -> list[object]:
    """The variables that a collector of logs could read from an exception and its causes, and whatever calls these."""
    found: list[object] = []
    while error is not None:
        step = error.__traceback__
        while step is not None:
            found += [*step.tb_frame.f_locals.values(), *([step.tb_frame.f_back] if step.tb_frame.f_back else [])]
            step = step.tb_next
        error = error.__cause__ or error.__context__
    return found


def test_without_messages_a_record_has_types_and_frames(queue, told):
    queue.put(CARD)
    view = ErrorView(messages=False)
    consume(queue, raising(chained()), errors=view)
    (record,) = told()
    text = printed(record)
    assert (record.error, record.reason) == ("ExceptionGroup", "")
    assert "in refuse" in text
    assert "LookupError\n" in text
    assert "  | ValueError\n" in text
    for said in ("no customer", "note about", "password", "all (2"):
        assert said not in text
        assert said not in repr(record.exc_info[1])
    discarded, postponed = Discard("no customer"), RetryLater(1000, "no customer")
    for error in (discarded, postponed):
        queue.put(CARD)
        consume(queue, raising(error), errors=view)
        assert "no customer" not in printed(told()[-1])
        assert told()[-1].reason == ""


def test_the_words_of_the_settings_decide_what_is_secret():
    view = ErrorView(secrets=Secrets(("digits",)))
    assert view.of(KeyError("digits: 12 token=a")).reason == "'digits: […] token=a'"


def test_a_message_does_not_control_the_terminal_and_is_short():
    reason = ErrorView().of(ValueError("\x1b[2J" + "x" * 5000)).reason
    assert reason.startswith("\\x1b[2Jxxx")
    assert len(reason) == 200


@pytest.mark.parametrize("name", ["__str__", "__notes__", "__cause__", "__traceback__"])
def test_an_error_that_cannot_be_shown_is_logged_by_its_name(queue, told, name):
    class Odd(Exception):
        @property
        def odd(self) -> object:
            raise RuntimeError("odd")

    setattr(Odd, name, Odd.odd if name != "__str__" else lambda self: 1 / 0)
    queue.put(CARD)
    consume(queue, raising(Odd()))
    (record,) = told()
    assert (record.error, record.state) == ("Odd", "delayed")


# -- collectors


class Kept(Transport):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, object]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        if event := envelope.get_event():
            self.events.append(event)


@contextmanager
def plain_sentry(**options: object) -> Iterator[list[dict[str, object]]]:
    kept = Kept()
    with sentry_sdk.isolation_scope() as scope:
        scope.clear()
        sentry_sdk.init("https://public@sentry.invalid/1", transport=kept, auto_enabling_integrations=False, **options)
        try:
            yield kept.events
        finally:
            sentry_sdk.get_global_scope().set_client(None)


def test_the_plain_sentry_sdk_gets_an_event_for_a_dead_item_and_a_breadcrumb_for_a_retry(make_queue, told):
    queue = make_queue(max_deliveries=2)
    uid = queue.put(CARD)
    with plain_sentry() as events:
        consume(queue, refuse, backoff=Backoff(base=0))
    (event,) = events
    (shown,) = event["exception"]["values"]
    assert (shown["type"], shown["value"]) == ("LookupError", MASKED)
    frames = shown["stacktrace"]["frames"]
    assert (frames[-1]["function"], frames[-1]["abs_path"]) == ("refuse", __file__)
    assert "raise LookupError" in frames[-1]["context_line"]
    assert not any(frame.get("vars") for frame in frames)
    assert event["level"] == "error"
    assert event["logentry"]["message"].startswith("failed, now dead queue=%s uid=%s")
    assert (event["extra"]["uid"], event["extra"]["state"]) == (uid, "dead")
    crumbs = [crumb for crumb in event["breadcrumbs"]["values"] if "will be tried again" in crumb["message"]]
    assert [(crumb["level"], crumb["data"]["state"]) for crumb in crumbs] == [("warning", "ready")]
    assert CARD not in json.dumps(event, default=str)
    assert TOKEN not in json.dumps(event, default=str)


class KeptMails(AdminEmailHandler):
    """Keeps the mails that it would send."""

    def __init__(self) -> None:
        super().__init__(include_html=True)
        self.mails: list[tuple[str, str, str]] = []

    def send_mail(self, subject, message, *args, html_message=None, **kwargs):
        self.mails.append((subject, message, html_message))


def test_the_admins_get_a_mail_for_a_dead_item(make_queue, settings):
    """With the traceback, and without variables and secrets."""
    settings.ADMINS = ["root@example.org"]
    handler, logger = KeptMails(), logging.getLogger("django_srq")
    handler.setLevel("ERROR")
    logger.addHandler(handler)
    try:
        queue = make_queue(max_deliveries=1)
        uid = queue.put(CARD)
        consume(queue, refuse)
    finally:
        logger.removeHandler(handler)
    ((subject, *texts),) = handler.mails
    assert f"uid={uid}" in subject
    for text in texts:
        assert MASKED in text
        assert "raise LookupError(TEXT % " in text
        assert CARD not in text
        assert TOKEN not in text


def test_a_filter_by_class_still_works(make_queue):
    queue = make_queue(max_deliveries=1)
    queue.put(CARD)
    with plain_sentry(ignore_errors=[LookupError]) as events:
        consume(queue, refuse)
    assert events == []


def test_the_setting_and_the_words_reach_the_log(project):
    handled = {"HANDLER": "tests.consumer.test_error_log.refuse", "BACKOFF": {"base": 1000}}
    project.configure({"q": handled, "mute": {**handled, "LOG_MESSAGES": False}}, project.settings.SRQ_DEFAULTS)
    project.settings.SRQ_ADMIN = {"REDACT": ["customer for"]}
    from django_srq import queues

    for alias in ("q", "mute"):
        queues[alias].put(CARD)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("django_srq").addHandler(handler)
    try:
        assert project.call("srq_consume", "--burst", "--processes", "0")[0] == 0
    finally:
        logging.getLogger("django_srq").removeHandler(handler)
    shown, mute = stream.getvalue().split("queue=mute")
    assert f"reason=no customer for token={TOKEN}" in shown  # not a secret by these words
    assert "LookupError: no customer" in shown
    assert "no customer" not in mute
    assert "in refuse" in mute
