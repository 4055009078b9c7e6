"""Makes text of payloads, headers and errors for people, without the secrets in them.

A value is secret if the name of its key contains a word of ``SRQ_ADMIN["REDACT"]``, in upper or lower case, or if the
project's own ``SRQ_ADMIN["REDACTOR"]`` removes it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.utils.translation import gettext as _

from django_srq import conf
from django_srq.conf import QueueConfig
from django_srq.exceptions import PayloadError
from django_srq.queue.masking import MASK, Secrets
from django_srq.queue.serializers import load
from django_srq.runtime.completion import completed

logger = logging.getLogger("django_srq.status")

HEX_MOST = 1024  # bytes that are shown of data that are not text
WIDTH = 16  # bytes in a line of a hex dump


@dataclass(frozen=True)
class Shown:
    """A payload as text."""

    text: str
    note: str = ""  # a remark, shown with the text or in its place

    def cut(self, characters: int) -> str:
        line = " ".join(self.text.split()).replace("{ ", "{").replace(" }", "}") or self.note
        return line if len(line) <= characters else line[: characters - 1] + "…"


def redacted(value: Any) -> Any:
    """The same data with the values of secret keys masked, at any depth, and with texts redacted; plain data only."""
    return _secrets().masked(value)


def redacted_text(text: str) -> str:
    """Mask in any text the values that follow a secret name, and passwords in URLs."""
    return _secrets().masked_text(text)


def _secrets() -> Secrets:
    return Secrets(conf.load().admin.redact)


def payload_shown(config: QueueConfig, data: bytes, size: int) -> Shown:
    """size: bytes of the whole payload. data is shorter if that is too large: its beginning, or nothing."""
    if config.serializer == "pickle":
        return Shown("", _("Pickled payloads are not displayed, because unpickling can run code."))
    if len(data) < size:
        note = _("Too large to display.")
        return Shown(_as_text(data), note) if data and config.serializer == "raw" else Shown("", note)
    try:
        payload = _decoded(config, data)
    except (PayloadError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error.__cause__ or error, RecursionError):
            return _not_laid_out(data)
        note = "" if config.serializer == "raw" else _("It cannot be decoded. These are its bytes:")
        return Shown(_as_text(data), note)
    return _data_shown(config.alias, payload, data)


def decoded_shown(alias: str, payload: Any) -> Shown:
    """A payload that is decoded already, such as in a consumer."""
    return _data_shown(alias, payload, b"")


def _data_shown(alias: str, payload: Any, data: bytes) -> Shown:
    """Show nothing where the project's redactor fails: only the redactor knows what else is secret."""
    admin = conf.load().admin
    try:
        redactor = admin.load_redactor()
        payload = completed(redactor(alias, payload), _refuse) if redactor else payload
    except Exception as error:
        _log_once(admin.redactor, type(error).__name__)
        return Shown("", _("It is not displayed, because the redactor failed."))
    try:
        return Shown(_as_json(payload))
    except (ValueError, TypeError, RecursionError):
        return _not_laid_out(data)


def _refuse(coroutine: Coroutine[Any, Any, Any]) -> Any:
    raise TypeError("a redactor is not to be an async def")


def _not_laid_out(data: bytes) -> Shown:
    # A redactor removes secrets from the decoded payload, and they are still in the bytes.
    text = "" if conf.load().admin.redactor else _as_text(data)
    return Shown(text, _("It cannot be displayed. It may be nested too deeply."))


@cache
def _log_once(redactor: str | None, error: str) -> None:
    # Without the message of the error, which may quote the payload.
    logger.error("redactor failed, payloads are not shown redactor=%s error=%s", redactor, error)


def _decoded(config: QueueConfig, data: bytes) -> Any:
    if config.serializer == "raw":
        return json.loads(data)
    return load(config.load_serializer(), data, queue=config.alias, uid="")


def _as_json(payload: Any) -> str:
    plain = json.loads(json.dumps(payload, cls=DjangoJSONEncoder, ensure_ascii=False, skipkeys=True, default=str))
    return json.dumps(redacted(plain), ensure_ascii=False, indent=2)


def _as_text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return hex_dump(data[:HEX_MOST])
    return redacted_text(text) if text.isprintable() or "\n" in text or "\t" in text else hex_dump(data[:HEX_MOST])


def hex_dump(data: bytes) -> str:
    """The bytes as hexadecimal numbers, and as characters where they are printable."""
    lines = []
    for start in range(0, len(data), WIDTH):
        part = data[start : start + WIDTH]
        characters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:06x}  {part.hex(' '):{WIDTH * 3}} {characters}")
    return "\n".join(lines)


def headers_shown(headers: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    secrets = _secrets()
    return [(name, MASK if secrets.names(name) else secrets.masked_text(headers[name])) for name in sorted(headers)]
