"""Payload to bytes and back.

A serializer is any object with ``dumps(payload) -> str | bytes`` and ``loads(bytes) -> payload``: a module, a class, an
instance. The default of the settings' queues is ``json``; that of a ``SafeRedisQueue`` without settings is ``raw``.
"""

from __future__ import annotations

import json as stdlib_json
import pickle as stdlib_pickle
from collections.abc import Callable
from json import encoder as json_encoder
from types import CoroutineType
from typing import Any, Protocol

from django.core.serializers.json import DjangoJSONEncoder

from django_srq.exceptions import PayloadError, PayloadTooLarge
from django_srq.queue.failure import without_texts
from django_srq.runtime.completion import drop
from django_srq.runtime.interruption import is_interruption


class Serializer(Protocol):
    def dumps(self, payload: Any, /) -> str | bytes: ...

    def loads(self, data: bytes, /) -> Any: ...


_ENCODER = DjangoJSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _encoding(encoder: stdlib_json.JSONEncoder) -> Callable[[Any], str]:
    """The encoder's ``encode``, with an encoder in C that is made once: making it takes longer than a small payload.

    A payload that contains itself ends in RecursionError.
    """
    try:
        chunks = json_encoder.c_make_encoder(  # type: ignore[attr-defined]
            None,
            encoder.default,
            json_encoder.encode_basestring,
            None,
            encoder.key_separator,
            encoder.item_separator,
            encoder.sort_keys,
            encoder.skipkeys,
            encoder.allow_nan,
        )
    except (AttributeError, TypeError):  # undocumented: this Python has no such function, or a different one
        return encoder.encode
    return lambda payload: "".join(chunks(payload, 0))


_encode = _encoding(_ENCODER)
_DECODER = stdlib_json.JSONDecoder()


def _decode(text: str) -> Any:
    """The decoder's ``decode``, but white space around a payload, which is rare, is looked for only on failure."""
    try:
        payload, end = _DECODER.raw_decode(text)
    except ValueError:  # perhaps because it begins with white space
        end = -1
    return payload if end == len(text) else _DECODER.decode(text)


class JSON:
    """JSON with Django's encoder: takes dates, decimals, UUIDs and lazy strings too, which come back as strings."""

    def dumps(self, payload: Any) -> str:
        return _encode(payload)

    def loads(self, data: bytes) -> Any:
        try:
            return _decode(data.decode())
        except ValueError:  # not UTF-8: loads detects other encodings, which takes longer
            return stdlib_json.loads(data)


class Raw:
    """No serialisation, as in saferedisqueue: takes bytes, text and numbers, returns bytes (or ``str``: ``decode``)."""

    def __init__(self, *, decode: bool = False, encoding: str = "utf-8") -> None:
        self.decode = decode
        self.encoding = encoding

    def dumps(self, payload: Any) -> bytes:
        if isinstance(payload, bytes | bytearray | memoryview):
            return bytes(payload)
        if isinstance(payload, str):
            return payload.encode(self.encoding)
        if isinstance(payload, int | float) and not isinstance(payload, bool):
            return str(payload).encode(self.encoding)
        raise TypeError(f"a raw payload is bytes, str, int or float, not {type(payload).__name__}")

    def loads(self, data: bytes) -> bytes | str:
        return data.decode(self.encoding) if self.decode else data


class Pickle:
    """Pickle, only for queues that name it: a program that can write to the server can run code in their consumers."""

    def dumps(self, payload: Any) -> bytes:
        return stdlib_pickle.dumps(payload, protocol=stdlib_pickle.HIGHEST_PROTOCOL)

    def loads(self, data: bytes) -> Any:
        return stdlib_pickle.loads(data)


BY_NAME: dict[str, type[Serializer]] = {"json": JSON, "raw": Raw, "pickle": Pickle}


def dump(serializer: Serializer, payload: Any, *, queue: str, limit: int | None) -> bytes:
    """The payload's bytes; PayloadError when it cannot be serialised, PayloadTooLarge when they are more than limit."""
    data: Any = None
    try:
        data = serializer.dumps(payload)
        # Not bytes(data): for a number n that would be n zero bytes.
        encoded = (
            data if type(data) is bytes else data.encode() if isinstance(data, str) else memoryview(data).tobytes()
        )
    except BaseException as error:
        if is_interruption(error):
            raise
        drop(data)
        # The message has neither the payload nor the serializer's message, which may quote the payload.
        raise PayloadError(
            f"queue {queue!r}: a payload of type {type(payload).__name__} cannot be serialised ({type(error).__name__})"
        ) from error
    if limit is not None and len(encoded) > limit:
        raise PayloadTooLarge(
            f"queue {queue!r}: the payload has {len(encoded)} bytes, the limit is {limit}; "
            "put a reference to it instead, or raise MAX_PAYLOAD_BYTES"
        )
    return encoded


def load(serializer: Serializer, data: bytes, *, queue: str, uid: str) -> Any:
    """The payload. PayloadError when it cannot be read; its cause has only the type and the frames of the error."""
    try:
        payload = serializer.loads(data)
        if type(payload) is CoroutineType:
            payload.close()  # or Python would warn that it was never awaited
            raise TypeError("loads is not to be an async def")
        return payload
    except BaseException as error:
        if is_interruption(error):
            raise
        unreadable = PayloadError(f"queue {queue!r}: the payload of {uid} cannot be read ({type(error).__name__})")
        cause = without_texts(error)
    # Not in the except clause: the error itself is not to be the context of this one.
    raise unreadable from cause
