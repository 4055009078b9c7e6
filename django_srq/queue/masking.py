"""Masks the secrets in texts and data that people or logs are to see."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MASK = "[…]"
WORDS = (
    "password",
    "passwd",
    "secret",
    "token",
    "api_key",
    "api-key",
    "apikey",
    "authorization",
    "cookie",
    "credential",
)
# Possessive (++, *+), so that nothing is tried twice: the time is proportional to the length of any text.
_NAMED = re.compile(r"""(?<![\w-])([\w-]++)\\*+["']?+\s*+[:=]\s*+""")
# A string in quotes. Within another string its quotes are escaped: it ends at the same quote after as many backslashes.
_QUOTED = re.compile(r"""b?(\\*+)(["'])(?:(?!(?<!\\)\1\2)[^\n])*+(?:\1\2)?+""")
_BRACKET = re.compile(rf"{_QUOTED.pattern}|[\[\](){{}}]")
_WORD = re.compile(r"""[^\s,;&)\]}]++""")
_LINE = re.compile(r"[^\n]++")
_URL = re.compile(r"""(?<=://)[^\s"'<>]++""")


@dataclass(frozen=True)
class Secrets:
    """The secrets are the values of all keys whose names contain one of these words, in upper or lower case."""

    words: tuple[str, ...] = WORDS  # in lower case

    def names(self, key: object) -> bool:
        """Whether the value of a key is secret."""
        name = str(key).lower()
        return any(word in name for word in self.words)

    def masked(self, value: Any) -> Any:
        """The same data with the values of secret keys masked, at any depth, and with texts masked; plain data only."""
        if isinstance(value, Mapping):
            return {key: MASK if self.names(key) else self.masked(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.masked(part) for part in value]
        return self.masked_text(value) if isinstance(value, str) else value

    def masked_text(self, text: str) -> str:
        """Mask in any text the values that follow a secret name, and passwords in URLs.

        As in ``password=…``, ``"token": "…"``, ``'secrets': […]``, ``redis://user:…@host``.
        """
        parts, done = [], 0
        for named in _NAMED.finditer(text):
            if named.start() >= done and self.names(named[1]):
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
