"""TLS: the context that all connections to a server share, made from the options of redis-py.

redis-py would make a context for each connection, which takes as long as a hundred puts.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from typing import Any

from django_srq.transport.connection_errors import TlsError

_FILES = {"ssl_ca_certs": "ca_certs", "ssl_ca_path": "ca_path", "ssl_certfile": "certfile", "ssl_keyfile": "keyfile"}


class Tls:
    """The TLS context of a link, for all of its connections in this process, also those of event loops.

    It is made again when one of its files has changed, as certificates are renewed.
    """

    def __init__(self, pool: Any) -> None:
        """pool: of redis-py; its options make the context."""
        self._pool = pool
        self._context: ssl.SSLContext | None = None
        self._files: object = None

    def context(self) -> ssl.SSLContext:
        options = self._pool.connection_class(**self._pool.connection_kwargs)
        files = [_version(name, path) for name, path in _files(options)]
        context = self._context
        if context is None or files != self._files:
            context = self._context = _context(options)
            self._files = files
        return context


def missing(options: Any) -> Iterator[tuple[str, str]]:
    """The options of TLS that name a missing file, each with the file's path. options: of a connection."""
    for name, path in _files(options):
        if not os.path.exists(path):
            yield name, path


def _files(options: Any) -> Iterator[tuple[str, str]]:
    for name, attribute in _FILES.items():
        if path := getattr(options, attribute, None):
            yield name, os.fspath(path)


def _version(name: str, path: str) -> tuple[object, ...]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise TlsError(f"the file that {name} names is not there: {path}") from None
    except OSError as error:
        raise TlsError(f"the file that {name} names cannot be read: {path}: {error.strerror}") from None
    return path, found.st_mtime_ns, found.st_ino, found.st_size


def _context(options: Any) -> ssl.SSLContext:
    """A context from the options of a connection, as redis-py makes it. Options that redis-py lacks are not set."""

    def option(name: str) -> Any:
        return getattr(options, name, None)

    try:
        context = ssl.create_default_context()
        context.check_hostname = option("check_hostname")
        context.verify_mode = option("cert_reqs")
        for flag in option("ssl_include_verify_flags") or ():
            context.verify_flags |= flag
        for flag in option("ssl_exclude_verify_flags") or ():
            context.verify_flags &= ~flag
        if option("certfile") or option("keyfile"):
            context.load_cert_chain(option("certfile"), option("keyfile"), option("certificate_password"))
        authorities = [option(name) for name in ("ca_certs", "ca_path", "ca_data")]
        if any(authorities):
            context.load_verify_locations(*authorities)
        if option("ssl_min_version") is not None:
            context.minimum_version = option("ssl_min_version")
        if option("ssl_ciphers"):
            context.set_ciphers(option("ssl_ciphers"))
    except (OSError, ValueError, TypeError) as error:
        named = ", ".join(f"{name}={path}" for name, path in _files(options))
        raise TlsError(f"the options of TLS cannot be used ({named}): {error}") from error
    return context
