"""An application for web servers with several processes: each request puts an item and returns its uid.

The import of the module puts an item, too: servers that preload import it before they fork.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from django_srq import SafeRedisQueue

queue = SafeRedisQueue(url=os.environ["SRQ_TEST_WEB_URL"], name=os.environ["SRQ_TEST_WEB_QUEUE"], timeout=60)
FIRST = queue.put("while the module is imported")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [f"{os.getpid()} {queue.put(environ['PATH_INFO'])}".encode()]


async def asynchronous(scope: dict[str, Any], receive: object, send: Callable[[Any], Awaitable[None]]) -> None:
    if scope["type"] != "http":
        return
    body = f"{os.getpid()} {await queue.aput(scope['path'])}".encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
