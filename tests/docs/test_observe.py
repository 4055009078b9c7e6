"""Where the page about logs says that somebody gets a report: Sentry, with and without the integration, and a mail."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, Block, blocks
from tests.docs.sessions import Session
from tests.docs.test_pages import ENVIRONMENT, project  # noqa: F401 - a fixture

PAGE = list(blocks(ROOT / "docs" / "howto" / "observe.md"))
SECRET = "t7q4"
# What the page does not set: one delivery is enough, so that the item is dead.
ONE_DELIVERY = Block(0, "python", '# mysite/settings.py, at its end\nSRQ_QUEUES["orders"]["MAX_DELIVERIES"] = 1\n')
# Mails go to a folder. From Django 6.1 on, a new project has MAILERS.
MAIL = """# mysite/settings.py, at its end
ADMINS = ["root@example.org"]
_backend = "django.core.mail.backends.filebased.EmailBackend"
if "MAILERS" in globals():
    MAILERS = {"default": {"BACKEND": _backend, "OPTIONS": {"file_path": "mails"}}}
else:
    EMAIL_BACKEND, EMAIL_FILE_PATH = _backend, "mails"
"""


class Receiver(BaseHTTPRequestHandler):
    """Sentry's side of the wire: keeps the items of the envelopes that the SDK posts."""

    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        lines = body.splitlines()[1:]
        for header, payload in zip(lines[::2], lines[1::2], strict=False):
            self.received.append({"type": json.loads(header)["type"], **json.loads(payload)})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def folder(project: Path, tmp_path: Path) -> Path:  # noqa: F811
    return Path(shutil.copytree(project, tmp_path / "session"))


@pytest.fixture
def sentry() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A DSN, and what was sent to it."""
    received: list[dict[str, Any]] = []
    with HTTPServer(("127.0.0.1", 0), type("", (Receiver,), {"received": received})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://key@127.0.0.1:{server.server_port}/1", received
        finally:
            server.shutdown()


def shown(text: str) -> Block:
    """The first block of the page that has this text."""
    return next(block for block in PAGE if block.file and text in block.text)


def consume(folder: Path, *settings: Block, **environment: str) -> None:
    """Put an order that is dead after a delivery, and handle it, in a project with these blocks."""
    session = Session(folder, {**ENVIRONMENT, **environment}, "")
    commands = (
        f"""$ python manage.py srq_put orders --json '{{"order": -1, "token": "{SECRET}"}}'\n"""
        "$ python manage.py srq_consume orders --burst\n"
    )
    try:
        session.execute([shown("def handle_order"), *settings, ONE_DELIVERY, Block(0, "console", commands)])
    finally:
        session.close()


def event_of(received: list[dict[str, Any]]) -> dict[str, Any]:
    (event,) = [item for item in received if item["type"] == "event"]
    assert event["level"] == "error"
    assert SECRET not in json.dumps(event)
    error = event["exception"]["values"][-1]
    assert (error["type"], error["value"]) == ("ValueError", "no such order: -1, token=[…]")
    assert [frame["function"] for frame in error["stacktrace"]["frames"]] == ["handle_order"]
    return event


def test_sentry_gets_one_event_of_an_item_that_is_dead(sentry: tuple[str, list[dict[str, Any]]], folder: Path) -> None:
    dsn, received = sentry
    consume(folder, shown("SRQIntegration()"), SENTRY_DSN=dsn)
    event = event_of(received)
    assert event["tags"]["queue"] == "orders"
    assert event["tags"]["uid"] == event["contexts"]["item"]["uid"]


def test_sentry_without_the_integration_gets_one_event_too(
    sentry: tuple[str, list[dict[str, Any]]], folder: Path
) -> None:
    dsn, received = sentry
    plain = (
        f'# mysite/settings.py, at its end\nimport sentry_sdk\nsentry_sdk.init(dsn="{dsn}", traces_sample_rate=1.0)\n'
    )
    consume(folder, Block(0, "python", plain))
    event = event_of(received)
    assert (event["logger"], event["extra"]["queue"]) == ("django_srq.consumer", "orders")
    assert [item["type"] for item in received if item["type"] == "transaction"] == []


def test_the_admins_get_a_mail_of_an_item_that_is_dead(folder: Path) -> None:
    consume(folder, shown("AdminEmailHandler"), Block(0, "python", MAIL))
    (file,) = (folder / "mails").iterdir()
    message = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert "failed, now dead queue=orders" in message["Subject"]
    body = message.get_body()
    assert body is not None
    assert SECRET not in body.get_content()
