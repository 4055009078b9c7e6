"""How the constructor of a queue makes its link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from django_srq.queue import arguments
from django_srq.transport.clients import client_from_arguments, client_from_url, is_embedded
from django_srq.transport.flow import LONGEST
from django_srq.transport.link import PUT_TIMEOUT, TIMEOUT, Link, embedded_link


def link_of(
    args: Sequence[Any],
    link: Link | None,
    client: redis.Redis | None,
    url: str | None,
    timeout: float | None,
    options: dict[str, Any],
) -> Link:
    """The link that was given; or a new one, for a client, for a URL, or for arguments of ``redis.Redis``."""
    if link is not None:
        arguments.without_effect("link", args, options, client=client, url=url, timeout=timeout)
        return link
    seconds = timeout or TIMEOUT
    if client is not None:
        arguments.without_effect("client", args, options, url=url)
        return Link(client, timeout=seconds)
    if url is None:
        return Link(client_from_arguments(*args, **options), timeout=seconds)
    arguments.without_effect("url", args, ())
    if is_embedded(url):
        return embedded_link(url, timeout=seconds, **options)
    return Link(client_from_url(url, **options), timeout=seconds)


def put_timeout_of(link: Link, timeout: float | None) -> float:
    """The seconds for a put: those that were given; or PUT_TIMEOUT, but no more than for any other call."""
    return min(PUT_TIMEOUT, link.timeout) if timeout is None else min(timeout, LONGEST)
