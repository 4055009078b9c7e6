"""Includes only define functions and constants: nothing runs where an include stands, and all that it needs is said."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from django_srq import operations
from django_srq.operations import scripts
from tests.operations.test_operations import LUA, SHARED

# These begin a script, and run where they stand: they end it with an error, and leave what all of its parts use.
OPENINGS = {"keys": set(operations.key_types()), "begin": {"now", "repeated", "facts", "seconds", "tallies"}}
RUN = {*OPENINGS, "check_layout"}
GENERATED = {
    "types": {"types"},
    "most_bytes": {"MOST_BYTES"},
    "uniques_most": {"UNIQUES_MOST"},
    "series_sizes": {"MINUTES", "HOURS", "BUCKETS"},
}
# What every script has: the words of Lua and its libraries, and what scripts.py puts in.
LUA_WORDS = set(
    re.findall(
        r"\w+",
        """
        and break do else elseif end false for function if in local nil not or repeat return then true until while
        ipairs pairs math string table cjson redis unpack next type tostring tonumber pcall error
        KEYS ARGV LAYOUT RIGHTS
        """,
    )
)
DEFINITIONS = sorted(set(SHARED) - RUN)

_NOISE = re.compile(r"--[^\n]*|'[^'\n]*'|\"[^\"\n]*\"")
_TOKEN = re.compile(r"''|[A-Za-z_]\w*|\d+(?:\.\d+)?|\S")
_OPENS, _CLOSES = {"function", "if", "do", "repeat"}, {"end", "until"}  # "for" and "while" have a "do"
_CONSTANT = re.compile(r"local [A-Z_]+ = [\d ^*/.+-]+")


def text_of(name: str) -> str:
    return (LUA / "shared" / f"{name}.lua").read_text("utf-8")


def code_of(text: str) -> str:
    """The text without comments, and with empty strings."""
    return _NOISE.sub(lambda match: "" if match[0].startswith("--") else "''", text)


def statements(text: str) -> Iterator[str]:
    """The top level of a file: of each block its head and its end, with … in between; and what else is there."""
    depth, found = 0, []
    for token in _TOKEN.findall(code_of(text)):
        depth -= token in _CLOSES
        if depth == 0:
            if token == "local" and found:
                yield " ".join(found)
                found = []
            found.append("… end" if token in _CLOSES else token)
        depth += token in _OPENS
    if found:
        yield " ".join(found)


def is_definition(statement: str) -> bool:
    function = r"local function \w+ \( (?:\w+ (?:, \w+ )*)?\) … end"
    # The parameters are behind the word that opens the block.
    return bool(re.fullmatch(r"local function … end|" + function, statement) or _CONSTANT.fullmatch(statement))


def defined(text: str) -> set[str]:
    return set(re.findall(r"^local (?:function )?(\w+)", text, re.MULTILINE))


def included(text: str) -> set[str]:
    return {name for names in re.findall(r"-- include: (.+)", text) for name in names.split()}


def needed(text: str) -> set[str]:
    """The includes that a file says it needs, and those that it includes itself, in blocks of its own."""
    comments = " ".join(line.lstrip("- ") for line in text.splitlines() if line.startswith("--"))
    said = re.search(r"Needs ([\w, ]+)[.;]", comments)
    return {*(said[1].split(", ") if said else []), *included(text)}


def names_of(include: str) -> set[str]:
    """What an include gives to the script that has it."""
    if include in GENERATED:
        return GENERATED[include]
    if include in OPENINGS:
        text = text_of(include)
        return OPENINGS[include].union(*(names_of(inner) for inner in included(text) if inner in {"series", "clock"}))
    text = text_of(include)
    return defined(text).union(*(names_of(inner) for inner in included(text)))


def free_names(text: str) -> set[str]:
    """The names that a file uses and gives no meaning."""
    plain = code_of(text)
    bound = set(re.findall(r"\bfunction (\w+)", plain))
    for binding in (r"\blocal ((?!function)[\w, ]+)", r"\bfor ([\w, ]+) (?:in|=)", r"\bfunction ?\w*\(([^)]*)\)"):
        bound |= set(re.findall(r"\w+", " ".join(re.findall(binding, plain))))
    plain = re.sub(r"([{,]\s*)\w+ =(?!=)", r"\1", plain)  # the names of a table's fields
    used = re.findall(r"(?<![.\w:])[A-Za-z_]\w*", plain.replace("..", " "))
    return set(used) - bound - LUA_WORDS


@pytest.mark.parametrize("name", DEFINITIONS)
def test_include_has_only_functions_and_constants(name):
    assert [statement for statement in statements(text_of(name)) if not is_definition(statement)] == []


@pytest.mark.parametrize("name", DEFINITIONS)
def test_include_uses_nothing_that_it_does_not_say(name):
    text = text_of(name)
    known = set().union(*(names_of(include) for include in needed(text)))
    assert free_names(text) - known == set()


@pytest.mark.parametrize("name", sorted(RUN))
def test_opening_says_why_it_runs(name):
    assert name == "keys" or "runs at its place" in text_of(name)


@pytest.mark.parametrize(
    "text",
    [
        "local flags = {}\n",
        "local till = now\n",
        "count('put')\n",
        "local function f()\n  return 1\nend f()\n",
        "local function f()\n  end\n  f()\nlocal function g()\nend\n",
        "if now then\n  local function f()\n  end\nend\n",
        "for i = 1, 2 do\nend\n",
        "local BATCH = count('put')\n",
        "local A = 1 count('put')\n",
        "return nil\n",
        "now = 1\n",
        "function f()\nend\n",
    ],
)
def test_what_runs_is_noticed(text):
    assert not all(map(is_definition, statements(text)))
    assert not all(map(is_definition, statements("local A = 1\n" + text)))
    assert not all(map(is_definition, statements("local function first()\n  if now then f() end\nend\n" + text)))


@pytest.mark.parametrize("name", ["at", "consumer", "minute"])
def test_name_that_is_left_to_the_script_is_noticed(name):
    assert free_names(f"local function f(uid)\n  return redis.call('HGET', items, uid .. {name})\nend\n") == {
        "items",
        name,
    }


def test_includes_are_all_used():
    sources = [path.read_text("utf-8") for path in LUA.rglob("*.lua")]
    assert set().union(*map(included, sources)) - {"…"} == {*SHARED, *GENERATED}


def test_sizes_of_the_series_stand_once():
    sources = "".join(path.read_text("utf-8") for path in LUA.rglob("*.lua"))
    assert not re.search(rf"\b({scripts.MINUTES}|{scripts.HOURS}|{scripts.BUCKETS})\b(?! bits)", sources)


def test_time_is_read_in_one_place():
    assert [path.stem for path in LUA.rglob("*.lua") if "'TIME'" in path.read_text("utf-8")] == ["clock"]


@pytest.mark.parametrize("file", sorted(LUA.rglob("*.lua")), ids=lambda file: file.stem)
def test_no_local_hides_a_key(file):
    if file.stem != "keys":
        named = re.findall(r"\blocal ([\w, ]+)=", code_of(file.read_text("utf-8")))
        assert {name.strip() for names in named for name in names.split(",")} & set(operations.key_types()) == set()
