"""Scripts: the Lua files as the server gets them, with their includes and without functions that they do not call."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

LAYOUT = 1  # the version of the key layout; a change of it comes with a way to upgrade queues that hold items
# Bytes in one call or reply, at most, besides its first item, which may be of any size. It is the default limit of one
# payload. More bytes would not be faster, and would hold up all other calls: the server copies such a reply in less
# than 1 ms, and 10 Mbit/s carry it within 1 s.
MOST_BYTES = 2**20
# The time series in stats (lua/shared/series.lua): how many periods its rings hold, and how many buckets there are for
# times. The last bucket is for all times beyond 2^30 ms, 12 days.
MINUTES, HOURS, BUCKETS = 180, 336, 32
UNIQUES_MOST = 250_000  # uids of one queue that count as there by unique_for; some 25 MB on the server


def _read(folder: Traversable) -> dict[str, str]:
    """The texts of the Lua files in a folder, by name."""
    files = (file for file in folder.iterdir() if file.name.endswith(".lua"))
    return {file.name.removesuffix(".lua"): file.read_text("utf-8") for file in files}


# Read when the code is imported that belongs to them, and not when first needed: after an upgrade in place, a running
# process would find other files, or none.
_FOLDER = resources.files("django_srq.operations") / "lua"
_LUA, _SHARED = _read(_FOLDER), _read(_FOLDER / "shared")
_KEY = re.compile(r"^(?:local| {5}) (\w+),? +-- (\w+):", re.MULTILINE)
_INCLUDE = re.compile(r"^( *)-- include: (.+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_FACT = re.compile(r"\bfacts\.(\w+)")
_COMMAND = re.compile(r"\bredis\.p?call\('([A-Z]+)'")
_OPTIONAL = frozenset({"INFO"})  # commands that a script can do without if the server refuses them
_IDLE = frozenset({"claim", "register"})  # scripts that idle consumers call again and again
_WORD = re.compile(r"\w+")
# Looks ahead, so that it finds functions within functions, too: the whole text, the indentation, the name.
_FUNCTION = re.compile(r"^(?=(( *)local function (\w+)\(.*?^\2end\n))", re.MULTILINE | re.DOTALL)


@cache
def key_types() -> dict[str, str]:
    """The keys of a queue, in the order of KEYS, with their Redis types; read from lua/shared/keys.lua."""
    return dict(_KEY.findall(_SHARED["keys"]))


@dataclass(frozen=True)
class Script:
    """One Lua file, with the files that it includes, as the server gets it and (by sha) knows it."""

    name: str
    text: bytes
    sha: bytes
    writes: bool

    @staticmethod
    @cache
    def named(name: str) -> Script:
        source = _LUA[name]
        whole = _stripped(_INCLUDE.sub(_included, source)).replace("IDLE", _idle(name))
        text = _with_rights(_with_facts(whole)).encode()
        # SHA-1 is how Redis names scripts; nothing depends on its strength.
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        return Script(name, text, sha, writes="no-writes" not in source.splitlines()[0])


def _idle(name: str) -> str:
    return "true" if name in _IDLE else "false"


def _shared(name: str) -> str:
    if name == "most_bytes":
        return f"local MOST_BYTES = {MOST_BYTES}\n"
    if name == "series_sizes":
        return f"local MINUTES, HOURS, BUCKETS = {MINUTES}, {HOURS}, {BUCKETS}\n"
    if name == "uniques_most":
        return f"local UNIQUES_MOST = {UNIQUES_MOST}\n"
    if name == "types":
        types = ", ".join(f"'{kind}'" for kind in key_types().values())
        return f"local types = {{{types}}}\n"
    return _SHARED[name]


def _included(match: re.Match[str]) -> str:
    indent, names = match[1], match[2].split()
    parts = [_INCLUDE.sub(_included, _shared(name)) for name in names]
    if "keys" in names:
        parts.insert(0, f"local LAYOUT = '{LAYOUT}'")
    return textwrap.indent("\n".join(parts), indent)


def _stripped(text: str) -> str:
    """The text without lines of comment, and without functions that nothing calls: each run makes them all anew."""
    text = _COMMENT.sub("", text)
    while unused := _unused(text):
        for function in unused:
            text = text.replace(function, "")
    return text


def _unused(text: str) -> list[str]:
    words = Counter(_WORD.findall(text))
    functions = Counter((match[3], match[1]) for match in _FUNCTION.finditer(text))
    # A function is unused when its name occurs only within itself: once as its name, and where it calls itself.
    return [body for (name, body), times in functions.items() if words[name] == times * _WORD.findall(body).count(name)]


def _with_facts(text: str) -> str:
    """The text with the code that reads the fields of meta that the script uses, and no others: each one costs time.

    A use is ``facts.<field>``, also in a comment at the end of a line: claim.lua computes the names of two fields.
    """
    names = sorted(set(_FACT.findall(text)))
    fields = ", ".join(f"'{name}'" for name in names)
    numbers = ", ".join(f"{name} = tonumber(found[{i}])" for i, name in enumerate(names, 1))
    read = f"local found = redis.call('HMGET', meta, {fields})\nlocal facts = {{{numbers}}}"
    return text.replace("local facts = FACTS", read)


def _with_rights(text: str) -> str:
    """The text with the list of commands that its user must have the right to: the script checks that at first."""
    return text.replace("RIGHTS, ", f"'{' '.join(sorted(_commands(text) - _OPTIONAL))}', ")


def _commands(text: str) -> set[str]:
    return set(_COMMAND.findall(text))


def explained(name: str) -> str:
    """A script as the server gets it, but with its comments. KeyError: there is no script of that name."""
    used = {match[3] for match in _FUNCTION.finditer(Script.named(name).text.decode())}
    text = _INCLUDE.sub(_included, _LUA[name]).replace("IDLE", _idle(name))
    for match in list(_FUNCTION.finditer(text)):
        if match[3] not in used:
            text = text.replace(match[1], "")
    return _with_rights(_with_facts(text))


def names() -> list[str]:
    return sorted(_LUA)
