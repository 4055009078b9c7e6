"""Makes text of payloads, headers and errors for people, without the secrets in them.

A value is secret if the name of its key contains a word of ``SRQ_ADMIN["REDACT"]``, in upper or lower case, or if the
project's own ``SRQ_ADMIN["REDACTOR"]`` removes it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.utils.translation import gettext as _

from django_srq import conf
from django_srq.conf import QueueConfig
from django_srq.exceptions import PayloadError
from django_srq.queue.serializers import load
from django_srq.runtime.completion import completed

logger = logging.getLogger("django_srq.status")

MASK = "[…]"
HEX_MOST = 1024  # bytes that are shown of data that are not text
WIDTH = 16  # bytes in a line of a hex dump
# Possessive (++, *+), so that nothing is tried twice: the time is proportional to the length of any text.
_NAMED = re.compile(r"""(?<![\w-])([\w-]++)\\*+["']?+\s*+[:=]\s*+""")
# A string in quotes. Within another string its quotes are escaped: it ends at the same quote after as many backslashes.
_QUOTED = re.compile(r"""b?(\\*+)(["'])(?:(?!(?<!\\)\1\2)[^\n])*+(?:\1\2)?+""")
_BRACKET = re.compile(rf"{_QUOTED.pattern}|[\[\](){{}}]")
_WORD = re.compile(r"""[^\s,;&)\]}]++""")
_LINE = re.compile(r"[^\n]++")
_URL = re.compile(r"""(?<=://)[^\s"'<>]++""")


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
    if isinstance(value, Mapping):
        return {key: MASK if _is_secret(key) else redacted(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(part) for part in value]
    return redacted_text(value) if isinstance(value, str) else value


def redacted_text(text: str) -> str:
    """Mask in any text the values that follow a secret name, and passwords in URLs.

    As in ``password=…``, ``"token": "…"``, ``'secrets': […]``, ``redis://user:…@host``.
    """
    parts, done = [], 0
    for named in _NAMED.finditer(text):
        if named.start() >= done and _is_secret(named[1]):
            end = _end_of_line(text, named.end()) if _is_header(named[1]) else _end_of_value(text, named.end())
            if end > named.end():
                parts += [text[done : named.end()], MASK]
                done = end
    return _URL.sub(_without_password, "".join([*parts, text[done:]]))


def _end_of_line(text: str, start: int) -> int:
    line = _LINE.match(text, start)
    return line.end() if line else start


def _end_of_value(text: str, start: int) -> int:
    if text[start : start + 1] in ("[", "(", "{"):
        return _end_of_bracket(text, start)
    value = _QUOTED.match(text, start) or _WORD.match(text, start)
    return value.end() if value else start


def _end_of_bracket(text: str, start: int) -> int:
    """The position after the closing bracket; the end of the text if that is cut off before it."""
    depth = 0
    for part in _BRACKET.finditer(text, start):
        depth += (part[0] in "[({") - (part[0] in "])}")
        if depth == 0:
            return part.end()
    return len(text)


def _without_password(url: re.Match[str]) -> str:
    # Not by urlsplit: a password may contain an unquoted / or @.
    account, at, host = url[0].rpartition("@")
    user, colon, _password = account.partition(":")
    return f"{user}:{MASK}@{host}" if at and colon and "/" not in user else url[0]


def _is_header(name: str) -> bool:
    return name.lower() in ("authorization", "proxy-authorization", "cookie", "set-cookie")


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
    return [(name, MASK if _is_secret(name) else redacted_text(value)) for name, value in headers.items()]


def _is_secret(key: object) -> bool:
    name = str(key).lower()
    return any(word in name for word in conf.load().admin.redact)
