"""The German catalogue has every string that the package marks, and its compiled form is up to date."""

from __future__ import annotations

import ast
import gettext
import re
from collections.abc import Iterator
from pathlib import Path

import polib
import pytest
from django.utils.translation import override, templatize

import django_srq
from django_srq import queues
from tests.admin.test_admin import URL, visitor, words

PACKAGE = Path(django_srq.__file__).parent
FOLDER = PACKAGE / "locale" / "de" / "LC_MESSAGES"
# For each function, the positions of context, singular and plural among its arguments.
MARKS = {
    "_": (None, 0, None), "gettext": (None, 0, None), "gettext_lazy": (None, 0, None), "gettext_noop": (None, 0, None),
    "ngettext": (None, 0, 1), "pgettext": (0, 1, None), "pgettext_lazy": (0, 1, None), "npgettext": (0, 1, 2),
}  # fmt: skip
Key = tuple[str | None, str, str | None]


def marked(source: str) -> Iterator[Key]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in MARKS:
            texts = [argument.value if isinstance(argument, ast.Constant) else None for argument in node.args]
            context, singular, plural = MARKS[node.func.id]
            assert isinstance(texts[singular], str), f"cannot be extracted: {ast.unparse(node)}"
            yield (
                None if context is None else texts[context],
                texts[singular],
                None if plural is None else texts[plural],
            )


def marked_in_template(path: Path) -> Iterator[Key]:
    calls = re.findall(r"\b(?:n|p|np)?gettext\((?:[^()'\"]|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")*\)|\b_\((?:[^()'\"]|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")*\)", templatize(path.read_text("utf-8"), origin=str(path)))  # fmt: skip  # noqa: E501
    for call in calls:
        # templatize replaces the text between tags; the prefix u'' and the counter do no harm.
        yield from marked(re.sub(r",\s*count\b", ", 1", call))


def all_marked() -> set[Key]:
    found: set[Key] = set()
    for path in PACKAGE.rglob("*.py"):
        found |= set(marked(path.read_text("utf-8")))
    for path in (PACKAGE / "templates").rglob("*.html"):
        found |= set(marked_in_template(path))
    return found


@pytest.fixture(scope="module")
def catalogue() -> polib.POFile:
    return polib.pofile(str(FOLDER / "django.po"))


def test_catalogue_is_complete(catalogue):
    known = {(entry.msgctxt, entry.msgid, entry.msgid_plural or None) for entry in catalogue}
    expected = all_marked()
    assert len(expected) > 200
    assert known == expected


def test_every_string_is_translated(catalogue):
    assert [entry.msgid for entry in catalogue if not entry.translated() or entry.fuzzy or entry.obsolete] == []


def test_translations_keep_the_placeholders(catalogue):
    placeholder = re.compile(r"%\(\w+\)s|%s")
    for entry in catalogue:
        for text in entry.msgstr_plural.values() if entry.msgid_plural else [entry.msgstr]:
            expected = placeholder.findall(entry.msgid_plural or entry.msgid)
            assert sorted(placeholder.findall(text)) == sorted(expected), entry.msgid


def test_the_compiled_catalogue_is_up_to_date(catalogue):
    with (FOLDER / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for entry in catalogue:
        context = "" if entry.msgctxt is None else f"{entry.msgctxt}\x04"
        if entry.msgid_plural:
            for n in (1, 2):
                found = compiled.ngettext(context + entry.msgid, context + entry.msgid_plural, n)
                assert found == entry.msgstr_plural[n - 1]
        else:
            assert compiled.gettext(context + entry.msgid) == entry.msgstr
    assert len([key for key in compiled._catalog if key]) == sum(2 if e.msgid_plural else 1 for e in catalogue)


@pytest.mark.django_db
def test_the_pages_in_german(settings, server_url, prefix):
    settings.LANGUAGE_CODE = "de"
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": prefix, "HANDLER": "tests.support.handlers.note"}}
    queues["orders"].put(1)
    with override("de"):
        root = visitor("superuser")
        overview = words(root.get(URL).content.decode())
        queue = words(root.get(f"{URL}queue/orders/").content.decode())
    assert "orders steht: 1 bereit, und nie wurde ein Verbraucher gesehen. Einen starten:" in overview
    assert "Warteschlange Zustand Bereit In Arbeit Verzögert Tot" in overview
    assert "Nächster an der Reihe" in queue
