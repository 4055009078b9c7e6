"""Redis clients, made from URLs and options."""

from __future__ import annotations

import inspect
import re
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from django_srq.exceptions import ConfigurationError

INSTALL = "pip install 'django-srq[{}]'"  # with the name of an extra
SCHEMES = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}


def masked(url: str) -> str:
    """The URL without user, password and query, which may hold a password too; for messages and the status."""
    # Not with urlsplit: it takes the beginning of a password with an unquoted / or # in it for the host.
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    address, _, query = rest.partition("?")
    if "@" in query:  # the ? may be part of a password
        address = "..."
    return f"{scheme}{separator}{address.rpartition('@')[2]}"


def unescaped(url: str) -> str:
    """The character of a user or password in the URL that ends the address there; "" for none.

    redis-py would take the beginning of such a password for a port, and connect to localhost.
    """
    rest = url.partition("://")[2]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    if bracket := re.search(r"[\[\]]", authority.rpartition("@")[0]):
        return bracket[0]
    if "@" in authority or "@" not in behind or not authority:  # no authority: the path of a socket
        return ""
    in_an_option = re.fullmatch(r"[^?@]*\?[^@=]*=.*", behind)  # its value may contain an @ as well
    return "" if in_an_option else behind[0]


def client_from_url(url: str, **options: Any) -> redis.Redis:
    """A redis client for a URL. Opens no connection. ConfigurationError: the URL or an option cannot be used."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in (*SCHEMES, "embedded"))
        raise ConfigurationError(f"not a URL of a queue's server: {masked(url)!r}; it starts with one of {known}")
    if character := unescaped(url):
        code = f"%{ord(character):02X}"
        raise ConfigurationError(
            f"cannot use {masked(url)!r}: its user or password has a {character!r}, which is written as {code} "
            "(urllib.parse.quote(password, safe='') does so)"
        )
    try:
        client = redis.Redis.from_url(f"{SCHEMES[scheme]}://{rest}", **_client_options(options))
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # refuses options that it does not know
    except (ValueError, TypeError, redis.RedisError) as error:
        text = _without_url(error, url)
        advice = f": {INSTALL.format('hiredis')}" if text == "Hiredis is not installed" else ""
        raise ConfigurationError(f"cannot use {masked(url)!r}: {text}{advice}") from None
    return client


def client_option_names(url: str) -> set[str]:
    """The names of the options that a client with such a URL takes."""
    pool = redis.ConnectionPool.from_url(f"{SCHEMES[url.partition('://')[0]]}://")
    return {name for base in pool.connection_class.__mro__ for name in inspect.signature(base.__init__).parameters}


def client_from_arguments(*args: Any, **options: Any) -> redis.Redis:
    """A redis client from arguments of ``redis.Redis``. Opens no connection. ConfigurationError: it refuses them."""
    try:
        return redis.Redis(*args, **_client_options(options))
    except (ValueError, TypeError, redis.RedisError) as error:
        raise ConfigurationError(f"cannot make a redis client: {error}") from error


def is_embedded(url: str) -> bool:
    return url.startswith("embedded:")


def _without_url(error: Exception, url: str) -> str:
    text = str(error).replace(url, masked(url))
    # "Port could not be cast to integer value as …" may quote the beginning of a password with an unquoted /.
    return text.partition(" as '")[0] if "@" in url else text


def _client_options(options: dict[str, Any]) -> dict[str, Any]:
    # The link repeats calls, by one rule; redis-py 8 would repeat them ten times in a client from the constructor and
    # never in one from a URL. And redis-py 8 would allow 100 connections; older versions allow any number.
    ours = {"retry": Retry(NoBackoff(), 0), "max_connections": 2**31}
    if options.get("socket_keepalive_options"):  # redis-py 5 ignores them without socket_keepalive
        ours["socket_keepalive"] = True
    return ours | options


def address_of(pool: Any) -> str:
    """The address to which a client connects, without user and password."""
    options = pool.connection_kwargs
    database = options.get("db") or 0
    if "path" in options:
        return f"unix://{options['path']}"
    if service := getattr(pool, "service_name", None):
        sentinels = [address_of(sentinel.connection_pool) for sentinel in pool.sentinel_manager.sentinels]
        addresses = ",".join(address.rpartition("/")[0] for address in sentinels)
        return f"sentinel://{addresses}/{service}/{database}"
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{database}"
