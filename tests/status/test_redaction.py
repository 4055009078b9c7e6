from __future__ import annotations

import pytest

from django_srq.status import redaction
from django_srq.status.redaction import MASK, headers_shown, hex_dump, redacted, redacted_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=geheim", f"password={MASK}"),
        ("error: password=geheim, user=ada", f"error: password={MASK}, user=ada"),
        ('{"api_key": "ge heim", "user": "ada"}', f'{{"api_key": {MASK}, "user": "ada"}}'),
        ("{'db_password': 'ge heim'}", f"{{'db_password': {MASK}}}"),
        ("Authorization: Bearer abc.def\nHost: x", f"Authorization: {MASK}\nHost: x"),
        ("TOKEN = b'abc'", f"TOKEN = {MASK}"),
        ("tokens: 3", f"tokens: {MASK}"),
        (r"password='a\'b secret', n=1", f"password={MASK}, n=1"),
        ("{'password': ['S1', 'S2'], 'n': 1}", f"{{'password': {MASK}, 'n': 1}}"),
        ("{'password': {'old': 'S)1', 'new': ('S2',)}, 'n': 1}", f"{{'password': {MASK}, 'n': 1}}"),
        ('"secrets": [\n  "S1",\n  "S2"\n]\nn', f'"secrets": {MASK}\nn'),
        ("password: ['S1', 'S", f"password: {MASK}"),
        (r"{\"password\": \"S1 \\\"S2\\\" S3\", \"n\": 1}", rf"{{\"password\": {MASK}, \"n\": 1}}"),
        ("X-Api-Key: S1", f"X-Api-Key: {MASK}"),
        ("cannot reach postgres://user:S1@db/x", f"cannot reach postgres://user:{MASK}@db/x"),
        ("'redis://:S/1@S2@[::1]:6379/0'", f"'redis://:{MASK}@[::1]:6379/0'"),
        ("token=postgres://u:S1@db, https://x/?n=1&token=S2", f"token={MASK}, https://x/?n=1&token={MASK}"),
        ("https://x:80/ https://x/a:b@c https://ada@x", "https://x:80/ https://x/a:b@c https://ada@x"),
        ("nothing to see: here", "nothing to see: here"),
        ("password", "password"),
        ("password=", "password="),
        ("", ""),
    ],
)
def test_secrets_in_text(text, shown):
    assert redacted_text(text) == shown


@pytest.mark.parametrize("text", ["token" * 20_000, "token " * 20_000, "=" * 100_000, "a" * 100_000, "token=" * 20_000,
                                  "a" + " " * 100_000, "'" * 100_000, "token='" * 20_000, "token=[" * 20_000,
                                  "token=" + "(" * 100_000, "token" + "\\" * 100_000, "token='" + "\\" * 100_000,
                                  "token=" + "\\" * 50_000 + "'" + "\\" * 50_000, "://:" * 25_000,
                                  "://u:x@" * 20_000])  # fmt: skip
def test_no_text_takes_quadratic_time(text):
    """With quadratic time, these texts would take minutes."""
    redacted_text(text)


def test_secrets_in_data():
    payload = {"user": "ada", "Password": "x", "nested": [{"session_token": {"a": 1}}, 2], "n": None}
    assert redacted(payload) == {
        "user": "ada", "Password": MASK, "nested": [{"session_token": MASK}, 2], "n": None,
    }  # fmt: skip


def test_secrets_in_texts_within_data():
    payload = {"raw": '{"password": "S1", "n": 1}', "line": "plain token=S2", "at": ["redis://u:S3@h"], "n": "x: y"}
    assert redacted(payload) == {
        "raw": f'{{"password": {MASK}, "n": 1}}',
        "line": f"plain token={MASK}",
        "at": [f"redis://u:{MASK}@h"],
        "n": "x: y",
    }


def test_secrets_in_headers():
    headers = {"X-Api-Key": "S1", "from": "redis://u:S2@h", "trace": "4bf92"}
    assert headers_shown(headers) == [("X-Api-Key", MASK), ("from", f"redis://u:{MASK}@h"), ("trace", "4bf92")]


def test_the_settings_name_the_secrets(settings):
    settings.SRQ_ADMIN = {"REDACT": ["IBAN"]}
    assert redacted({"iban": "DE1", "password": "x"}) == {"iban": MASK, "password": "x"}
    settings.SRQ_ADMIN = {"REDACT": []}
    assert redacted({"password": "x"}) == {"password": "x"}


def without_amounts(alias, payload):
    return {**payload, "amount": f"hidden in {alias}"}


def test_the_project_s_own_redactor(settings, server_url):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url}}
    settings.SRQ_ADMIN = {"REDACTOR": "tests.status.test_redaction.without_amounts"}
    from django_srq import conf

    shown = redaction.payload_shown(conf.queue_config("orders"), b'{"amount": 3, "token": "x"}', 27)
    assert shown.cut(100) == f'{{"amount": "hidden in orders", "token": "{MASK}"}}'


def fails(alias, payload):
    raise KeyError(payload["ssn"])


@pytest.mark.parametrize(
    ("redactor", "payload", "error"),
    [
        ("tests.status.test_redaction.fails", b'{"ssn": "123-45"}', "KeyError"),
        ("tests.status.test_redaction.without_amounts", b'["123-45"]', "TypeError"),
        ("tests.support.odd_handlers.redact_by_wrapper", b'{"ssn": "123-45"}', "TypeError"),
        ("not.there", b'{"ssn": "123-45"}', "ConfigurationError"),
    ],
)
def test_a_redactor_that_fails_shows_nothing_and_is_logged_once(settings, server_url, caplog, redactor, payload, error):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url}}
    settings.SRQ_ADMIN = {"REDACTOR": redactor}
    from django_srq import conf

    redaction._log_once.cache_clear()
    for _ in range(2):
        shown = redaction.payload_shown(conf.queue_config("orders"), payload, len(payload))
        assert (shown.text, shown.cut(100)) == ("", "It is not displayed, because the redactor failed.")
    (record,) = caplog.records
    assert "123-45" not in record.getMessage()
    assert record.getMessage().endswith(f"redactor={redactor} error={error}")


@pytest.mark.parametrize("redactor", [None, "tests.status.test_redaction.unchanged"])
@pytest.mark.parametrize("serializer", ["json", "raw"])
@pytest.mark.parametrize("depth", [300, 1500, 5000, 100_000])
def test_deeply_nested_data(settings, server_url, depth, serializer, redactor):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "SERIALIZER": serializer}}
    settings.SRQ_ADMIN = {"REDACTOR": redactor}
    from django_srq import conf

    data = b'{"password":"S1","n":' * depth + b"1" + b"}" * depth
    shown = redaction.payload_shown(conf.queue_config("orders"), data, len(data))
    assert "S1" not in shown.text
    if depth > 1000:
        assert (shown.text == "") == (redactor is not None)
        assert "It cannot be displayed" in shown.note


def unchanged(alias, payload):
    return payload


def test_hex_dump():
    assert hex_dump(b"\x00AZ~\x7f") == f"000000  {'00 41 5a 7e 7f':48} .AZ~."
