"""The errors of a server: which ones pass by themselves, which ones refuse a call, and what they mean."""

from __future__ import annotations

import re

import redis

from django_srq.exceptions import SRQError

# Errors that pass by themselves, as the server starts, fails over or is busy: worth another attempt in the time limit.
PASSING = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.MasterDownError,
)
# The same, by the beginning of the reply: redis-py has no class for these errors, or only in newer versions.
PASSING_REPLIES = ("BUSY ", "CLUSTERDOWN ", "MASTERDOWN ", "NOREPLICAS ", "TRYAGAIN ", "UNBLOCKED ")
# Errors that say that a user lacks the right to a command of a script: by our scripts, by Redis 7.0, by other servers.
_LACKS_RIGHTS = ("SRQRIGHTS ", "ACL failure in script", "The user executing the script can't run")
# Part of the error reply when a command within a script failed.
_IN_SCRIPT = re.compile(r"(?: script: (?:\w+, )?on )?@user_script(?::\d+\.?)?")
REFUSED_CALLER = (
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.AuthenticationWrongNumberOfArgsError,
    redis.exceptions.NoPermissionError,
)


def refused(error: Exception) -> bool:
    """Whether an error is the server's reply that it did not carry out the call. After any other, that is unknown."""
    replies = (redis.exceptions.ResponseError, redis.exceptions.BusyLoadingError, *REFUSED_CALLER)
    # redis-py raises the same class for this reply as for a lost connection.
    full = str(error).endswith("max number of clients reached")
    return (isinstance(error, replies) or full) and not raised_by_script(error)


def is_refusal(error: SRQError) -> bool:
    """Whether the server refused the call by an error that does not pass. It may carry out other calls."""
    cause = error.__cause__
    passing = isinstance(cause, PASSING) or str(cause).startswith(PASSING_REPLIES)
    return isinstance(cause, redis.exceptions.ResponseError) and not passing


def raised_by_script(error: Exception) -> bool:
    """Whether a command within a script failed: the commands before it may have written."""
    return isinstance(error, redis.exceptions.ResponseError) and _IN_SCRIPT.search(str(error)) is not None


_MOVED = "this server is a node of a cluster, and the queue's keys are on another node"
_ACROSS = "this server is a node of a cluster, where a queue's keys must be in one slot (cluster=True)"
_EXPLANATIONS = {
    "AuthenticationError": "the server refuses the user or password",
    "AuthenticationWrongNumberOfArgsError": "the server refuses the user or password",
    "AuthorizationError": "the server refuses the user or password",
    "NoPermissionError": "the server's access rules forbid it to this user",
    "ReadOnlyError": "the server is a read-only replica",
    "BusyLoadingError": "the server is still loading its data",
    "OutOfMemoryError": "the server is out of memory (maxmemory)",
    "MovedError": _MOVED,
    "AskError": _MOVED,
    "ClusterCrossSlotError": _ACROSS,
}
# By the first word of the reply: redis-py has no class for these errors, or only in newer versions.
_REPLIES = {
    "OOM": _EXPLANATIONS["OutOfMemoryError"],
    "MOVED": _MOVED,
    "ASK": _MOVED,
    "CROSSSLOT": _ACROSS,
    "NOREPLICAS": "too few replicas are connected to the server (min-replicas-to-write)",
}


def explain(error: BaseException) -> str:
    """The text of an error, for a message; with an explanation in front where the text alone says too little."""
    explained = _EXPLANATIONS.get(type(error).__name__) or _REPLIES.get(str(error).partition(" ")[0])
    if explained is None and "unauthenticated" in str(error):  # how Redis refuses commands as long as ours
        explained = _EXPLANATIONS["AuthenticationError"]
    text = _IN_SCRIPT.sub("", str(error)).rstrip(".") or type(error).__name__
    if text.startswith("SRQRIGHTS "):
        return f"{_EXPLANATIONS['NoPermissionError']}: {', '.join(text.split()[1:])}"
    if explained is None and lacks_rights(error):
        explained = _EXPLANATIONS["NoPermissionError"]
    if explained is None and "unexpected symbol near '#'" in text:  # our scripts begin with #!lua
        explained = "the server is too old, it needs Redis 7.0 or Valkey 7.2"
    return f"{explained}: {text}" if explained else text


def lacks_rights(error: BaseException) -> bool:
    """Whether the server refused a script, or a command in it, to this user."""
    return any(words in str(error) for words in _LACKS_RIGHTS)
