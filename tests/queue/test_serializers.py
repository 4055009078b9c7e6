"""Conversion of payloads to bytes and back."""

from __future__ import annotations

import datetime as dt
import decimal
import traceback
import uuid

import pytest
from django.core.signing import BadSignature

from django_srq import PayloadError, PayloadTooLarge
from django_srq.queue import serializers
from django_srq.queue.serializers import JSON, Pickle, Raw, dump, load

PAYLOAD = b"hunter2"  # tracebacks have lines of the source, so it stands only here

pytestmark = pytest.mark.versions


@pytest.mark.parametrize("payload", [{"order": 17, "name": "Žofie"}, [1, 2.5, None, True], "text", 0, None, ""])
def test_json_gives_back_what_json_knows(payload):
    assert JSON().loads(dump(JSON(), payload, queue="q", limit=None)) == payload


@pytest.mark.parametrize(
    ("payload", "comes_back"),
    [
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (dt.date(2025, 1, 2), "2025-01-02"),
        (dt.timedelta(seconds=90), "P0DT00H01M30S"),
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
    ],
)
def test_json_takes_what_djangos_encoder_takes(payload, comes_back):
    assert JSON().loads(dump(JSON(), payload, queue="q", limit=None)) == comes_back


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_of_others_comes_in_any_of_its_encodings(encoding):
    assert JSON().loads('{"name": "Žofie"}'.encode(encoding)) == {"name": "Žofie"}


def test_json_with_a_lone_surrogate_comes_back():
    assert JSON().loads('"\ud83d"'.encode("utf-8", "surrogatepass")) == "\ud83d"


KNOWN = {"a": [1, 2.5, None, True, "Žofie", 2**70], "b": decimal.Decimal("1.50"), "c": (dt.date(2025, 1, 2), {})}


@pytest.mark.parametrize("payload", [KNOWN, "text", 0, 2.5, None, [], [[[{}]]]])
def test_json_is_what_djangos_encoder_makes_of_it(payload):
    encoder = serializers._ENCODER
    assert serializers._encode != encoder.encode
    assert JSON().dumps(payload) == encoder.encode(payload)


@pytest.mark.parametrize("unknown", [None, lambda encode: None])
def test_json_without_an_encoder_in_c(monkeypatch, unknown):
    with monkeypatch.context() as patch:
        patch.setattr("json.encoder.c_make_encoder", unknown)
        encode = serializers._encoding(serializers._ENCODER)
    assert encode == serializers._ENCODER.encode
    assert encode(KNOWN) == JSON().dumps(KNOWN)


@pytest.mark.parametrize(
    "payload", [b"bytes", "text", bytearray(b"array"), memoryview(b"view"), 17, 1.5, b"\x00\xff\r\n"]
)
def test_raw_gives_bytes(payload):
    expected = str(payload).encode() if isinstance(payload, str | int | float) else bytes(payload)
    assert load(Raw(), dump(Raw(), payload, queue="q", limit=None), queue="q", uid="u") == expected


def test_raw_decodes_in_the_clients_encoding():
    raw = Raw(decode=True, encoding="latin-1")
    assert raw.dumps("é") == b"\xe9"
    assert raw.loads(b"\xe9") == "é"


def test_pickle_gives_back_any_object():
    assert Pickle().loads(Pickle().dumps({1: {decimal.Decimal("1.5")}})) == {1: {decimal.Decimal("1.5")}}


ENDLESS: list[object] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("serializer", "payload"),
    [
        (JSON(), object()),
        (JSON(), ENDLESS),
        (JSON(), float("nan")),
        (JSON(), {(1, 2): "tuple as key"}),
        (JSON(), {"text": "\ud800"}),
        (Raw(), {"order": 17}),
        (Raw(), None),
        (Raw(), True),
        (Raw(), "\ud800"),
        (Pickle(), lambda: None),
    ],
)
def test_an_error_of_serialization_names_the_queue_and_the_type(serializer, payload):
    with pytest.raises(PayloadError, match=f"^queue 'orders': a payload of type {type(payload).__name__} cannot be"):
        dump(serializer, payload, queue="orders", limit=None)


@pytest.mark.parametrize("dumped", [{"a": 1}, 3, None])
def test_serializer_that_gives_no_bytes_is_an_error(dumped):
    class Odd(Raw):
        def dumps(self, payload):
            return payload

    with pytest.raises(PayloadError, match=r"^queue 'orders'"):
        dump(Odd(), dumped, queue="orders", limit=None)


def test_errors_do_not_quote_the_payload():
    with pytest.raises(PayloadError) as unserialisable:
        dump(JSON(), {"secret": {"secret"}}, queue="q", limit=None)
    with pytest.raises(PayloadError) as unreadable:
        load(JSON(), b"secret", queue="q", uid="u")
    assert "secret" not in f"{unserialisable.value} {unreadable.value}"


def test_the_cause_of_an_unreadable_payload_has_only_its_type_and_its_frames():
    class Signed(Raw):
        def loads(self, data):
            try:
                int(data)
            except ValueError as error:
                error.add_note(f"in {data!r}")
                raise BadSignature(f"Signature {data!r} does not match") from error

    with pytest.raises(PayloadError) as unreadable:
        load(Signed(), PAYLOAD, queue="q", uid="u")
    told = "".join(traceback.format_exception(unreadable.value))
    assert PAYLOAD.decode() not in told
    assert "\ndjango.core.signing.BadSignature\n" in told
    assert "in loads\n" in told
    assert unreadable.value.__context__ is None


def test_limit_counts_bytes_and_may_be_reached():
    assert dump(Raw(), "é", queue="q", limit=2) == "é".encode()
    with pytest.raises(PayloadTooLarge, match=r"^queue 'q': the payload has 3 bytes, the limit is 2"):
        dump(Raw(), "éx", queue="q", limit=2)


@pytest.mark.parametrize(("serializer", "data"), [(JSON(), b"{"), (Pickle(), b"x"), (Raw(decode=True), b"\xff")])
def test_an_error_of_deserialization_names_the_queue_and_the_uid(serializer, data):
    with pytest.raises(PayloadError, match=r"^queue 'orders': the payload of u1 cannot be read"):
        load(serializer, data, queue="orders", uid="u1")
