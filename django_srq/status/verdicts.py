"""Judges the numbers that were read of queues and servers: findings, in words. Does no I/O.

A finding says, in the active language, what is wrong, since when, what that means and what to do. Its kind is a word
that never changes.
"""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext, pgettext_lazy

from django_srq import operations
from django_srq.conf import Problem, QueueConfig
from django_srq.exceptions import ConfigurationError, LayoutError
from django_srq.operations import Counts
from django_srq.operations.identifiers import from_milliseconds
from django_srq.operations.losses import keeps_no_file, may_evict
from django_srq.status.failures import Failures
from django_srq.status.series import MINUTE, RECENT
from django_srq.status.tasks import is_of_tasks
from django_srq.transport.refusals import REFUSED_CALLER, explain, lacks_rights

# All kinds, the worst first; they never change meaning.
LEVELS = {
    "down": "error",  # the server cannot be reached
    "refused": "error",  # it refuses the user, the password, or what this user does
    "loading": "error",  # it is still loading its data
    "misconfigured": "error",  # the settings are wrong
    "layout": "error",  # the keys are of another program, or of a newer version of this package
    "read_only": "error",  # the server is a replica
    "out_of_memory": "error",  # it is full and refuses puts
    "disk": "error",  # it cannot write its data to disk
    "stuck": "error",  # items are ready or due, and no consumer is live
    "erring": "warning",  # many of the latest deliveries failed; an error when nearly all did
    "paused": "warning",
    "late": "warning",  # the oldest ready item waits for longer than MAX_AGE
    "abandoned": "warning",  # leases have ended, and AUTOCLEAN_INTERVAL is None
    "failing": "warning",  # there are dead items
    "memory": "warning",  # the server's memory is nearly full
    "eviction": "warning",  # it may evict items to free memory
    "no_info": "warning",  # it refuses INFO to us
    "no_run": "warning",  # it refuses INFO to scripts, which cannot tell whether it was restarted
    "recovered": "note",  # items came back after their consumer died or lost them
    "unsaved": "note",  # it has saved nothing to disk for long
    "no_aof": "note",  # it has no append-only file
}
LEVEL_LABELS = {"error": gettext_lazy("Error"), "warning": gettext_lazy("Warning"), "note": gettext_lazy("Note")}
UNREACHABLE = frozenset({"down", "refused", "loading"})
SEVERITY = {kind: rank for rank, kind in enumerate(LEVELS)}  # 0: the worst

QUEUE_STATES = {
    "down": pgettext_lazy("state of a queue", "down"),
    "refused": pgettext_lazy("state of a queue", "refused"),
    "loading": pgettext_lazy("state of a queue", "loading"),
    "misconfigured": pgettext_lazy("state of a queue", "misconfigured"),
    "layout": pgettext_lazy("state of a queue", "unknown layout"),
    "read_only": pgettext_lazy("state of a queue", "read-only"),
    "out_of_memory": pgettext_lazy("state of a queue", "out of memory"),
    "disk": pgettext_lazy("state of a queue", "disk trouble"),
    "stuck": pgettext_lazy("state of a queue", "stuck"),
    "erring": pgettext_lazy("state of a queue", "erring"),
    "paused": pgettext_lazy("state of a queue", "paused"),
    "late": pgettext_lazy("state of a queue", "late"),
    "abandoned": pgettext_lazy("state of a queue", "abandoned"),
    "failing": pgettext_lazy("state of a queue", "failing"),
    "ok": pgettext_lazy("state of a queue", "ok"),
}

SILENCE = 30.0  # seconds without a claim, after which a queue without a live consumer is stuck
NEARLY_FULL = 0.9  # of maxmemory
UNSAVED = 2 * 3600.0  # seconds without a save while data change; a server that saves usually does within an hour
LONGEST_TEXT = 200  # characters that are shown of text from elsewhere


@dataclass(frozen=True)
class Finding:
    kind: str
    text: str
    advice: str = ""
    command: str = ""  # to follow the advice, in a shell or at a Python prompt
    queue: str | None = None
    server: str | None = None
    grave: bool = False  # an error, whatever its kind usually is
    state: str = ""  # of the items to look at; the page has a link to them instead of advice and command

    @property
    def level(self) -> str:
        return "error" if self.grave else LEVELS[self.kind]

    @property
    def level_label(self) -> str:
        return str(LEVEL_LABELS[self.level])

    def __str__(self) -> str:
        return " ".join(part for part in (self.text, self.advice, self.command) if part)


@dataclass(frozen=True)
class Pause:
    by: str
    reason: str
    since: dt.datetime | None
    until: dt.datetime | None  # None: until resumed


@dataclass(frozen=True)
class Attendance:
    """The consumers of a queue."""

    live: int  # how many are live
    silence: float | None  # seconds since any of them was last seen; None: never
    last: str = ""  # where the one that was seen last ran, if it did not sign off

    @property
    def missing(self) -> bool:
        return not self.live and (self.silence is None or self.silence >= SILENCE)


def grouped(n: float) -> str:
    """A number with separators of thousands; below 100 with one decimal, if it has any."""
    places = 0 if n >= 100 or round(n, 1) == round(n) else 1
    return number_format(round(n, places), decimal_pos=places, force_grouping=True)


def span(seconds: float) -> str:
    """A duration, rounded down to its largest unit."""
    for unit, text in ((86400, _("%s d")), (3600, _("%s h")), (60, _("%s min"))):
        if seconds >= unit:
            return text % grouped(int(seconds // unit))
    return _("%s s") % grouped(int(seconds))


def readable(text: object) -> str:
    """Text from elsewhere, safe to show even on a terminal: one line, no control characters, not too long."""
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


# -- servers


def unreachable(server: str, aliases: Sequence[str], error: Exception, seconds: float) -> Finding:
    """seconds: for how long this process has known it."""
    names = ", ".join(map(readable, aliases))
    if isinstance(error, ConfigurationError):
        return Finding("misconfigured", f"{names}: {readable(error)}", server=server)
    cause = error.__cause__ or error
    kind = _kind(cause)
    say = (
        _("The server %(server)s is down, noticed %(ago)s: %(cause)s.")
        if kind == "down"
        else _("The server %(server)s is not available, noticed %(ago)s: %(cause)s.")
    )
    ago = _("%s ago") % span(seconds) if seconds >= 1 else _("just now")
    concerned = ngettext("Queue: %s.", "Queues: %s.", len(aliases)) % names
    meanwhile = _("Consumers wait, and continue when the server is back. Until then, put() raises QueueUnavailable.")
    text = say % {"server": server, "ago": ago, "cause": readable(explain(cause))}
    return Finding(kind, f"{text} {concerned} {meanwhile}", server=server)


def of_server(server: str, info: Mapping[str, str], at: dt.datetime) -> Iterator[Finding]:
    """info: the reply of INFO; at: the server's time."""
    puts_fail = _("Until that changes, put() raises QueueUnavailable.")
    if info.get("role") == "slave" and info.get("slave_read_only", "1") == "1":
        text = _("The server %s is a read-only replica: items can be neither put nor taken.") % server
        yield Finding("read_only", f"{text} {puts_fail}", server=server)
    yield from _of_memory(server, info, puts_fail)
    if info.get("rdb_last_bgsave_status") == "err" or info.get("aof_last_write_status") == "err":
        text = _("The server %s cannot write its data to disk, and may refuse changes.") % server
        yield Finding("disk", text, _("Check its log and its disk."), server=server)
    if keeps_no_file(info):
        yield _of_no_file(server, info, at)


def _of_no_file(server: str, info: Mapping[str, str], at: dt.datetime) -> Finding:
    unsaved = at.timestamp() - _number(info, "rdb_last_save_time", at.timestamp())
    words = {"server": server, "span": span(max(0, unsaved))}
    if _number(info, "rdb_changes_since_last_save") and unsaved > UNSAVED:
        text = _(
            "The server %(server)s has not saved its data for %(span)s: if it stops, it loses all items put since then."
        )
        return Finding("unsaved", text % words, server=server)
    text = _("The server %(server)s has no append-only file: if it stops, it loses all items put since its last save.")
    return Finding("no_aof", text % words, _("Set:"), "appendonly yes", server=server)


def uninformed(server: str, error: Exception) -> Finding:
    """The server answers, but not to INFO."""
    text = _(
        "The server %(server)s does not answer INFO (%(cause)s). Full memory, a read-only replica and settings that "
        "lose items are therefore not reported."
    )
    words = {"server": server, "cause": readable(explain(error.__cause__ or error))}
    return Finding("no_info", text % words, _("Add to the ACL of this user:"), "+info", server=server)


def unknown_run(server: str, aliases: Sequence[str]) -> Finding:
    """aliases: the queues whose scripts were refused INFO."""
    text = _(
        "The server %(server)s refuses INFO to scripts. They notice an outage only when no consumer has called for a "
        "while, and take every such silence for an outage."
    )
    concerned = ngettext("Queue: %s.", "Queues: %s.", len(aliases)) % ", ".join(map(readable, aliases))
    said = f"{text % {'server': server}} {concerned}"
    return Finding("no_run", said, _("Add to the ACL of its users:"), "+info", server=server)


def _of_memory(server: str, info: Mapping[str, str], puts_fail: str) -> Iterator[Finding]:
    limit = _number(info, "maxmemory")
    if not limit:
        return
    used = _number(info, "used_memory")
    sizes = {"server": server, "used": filesizeformat(used), "limit": filesizeformat(limit)}
    evicts = may_evict(info)
    if used >= limit and not evicts:
        text = _("The server %(server)s is out of memory (%(used)s of %(limit)s). Consumers can still take items.")
        yield Finding("out_of_memory", f"{text % sizes} {puts_fail}", server=server)
    elif used >= limit * NEARLY_FULL:
        text = _("The memory of the server %(server)s is nearly full: %(used)s of %(limit)s.")
        yield Finding("memory", text % sizes, server=server)
    if evicts:
        text = _("The server %(server)s may evict items to free memory (maxmemory-policy %(policy)s).")
        policy = {"server": server, "policy": info["maxmemory_policy"]}
        yield Finding("eviction", text % policy, _("Set:"), "maxmemory-policy noeviction", server=server)


def _kind(cause: BaseException) -> str:
    if isinstance(cause, redis.exceptions.BusyLoadingError):
        return "loading"
    return "refused" if isinstance(cause, REFUSED_CALLER) or lacks_rights(cause) else "down"


def _number(info: Mapping[str, str], name: str, default: float = 0) -> float:
    try:
        return float(info[name])
    except (KeyError, ValueError):
        return default


# -- queues


def misconfigured(problems: Iterable[Problem], alias: str | None = None) -> Iterator[Finding]:
    """alias: None for problems that are not of a single queue."""
    for problem in problems:
        yield Finding("misconfigured", readable(problem.message), readable(problem.hint), queue=alias)


def unreadable(config: QueueConfig, error: Exception) -> Finding:
    """A queue that cannot be read, though its server answers."""
    if isinstance(error, LayoutError):
        return Finding("layout", readable(error), queue=config.alias)
    cause = error.__cause__ or error
    text = f"{readable(config.alias)}: {readable(explain(cause))}"
    return Finding(_kind(cause), text, queue=config.alias)


def of_queue(
    config: QueueConfig,
    counts: Counts,
    attendance: Attendance,
    pause: Pause | None,
    oldest_wait: float | None,
    failures: Failures,
) -> Iterator[Finding]:
    """oldest_wait: seconds."""
    if counts.layout not in (None, operations.LAYOUT):
        yield _of_another_layout(config.alias, counts)
    if failures.level != "ok":
        yield _erring(config.alias, counts, failures)
    if pause is not None:
        yield _paused(config.alias, counts, pause)
    elif counts.ready + counts.due and attendance.missing:
        yield _stuck(config, counts, attendance)
    elif oldest_wait is not None and oldest_wait > config.max_age:
        yield _late(config, counts, attendance, oldest_wait)
    if counts.ended:
        yield _abandoned(config.alias, counts.ended)
    if counts.dead:
        yield _failing(config.alias, counts.dead)


def _of_another_layout(alias: str, counts: Counts) -> Finding:
    text = _(
        "%(queue)s has keys of layout %(found)s, but this version of django-srq knows layout %(known)s. "
        "Upgrade django-srq here."
    )
    layouts = {"queue": readable(alias), "found": counts.layout, "known": operations.LAYOUT}
    return Finding("layout", text % layouts, queue=alias)


def _abandoned(alias: str, n: int) -> Finding:
    """n: leases that have ended."""
    text = ngettext(
        "%(n)s item of %(queue)s is in flight although its lease has ended: AUTOCLEAN_INTERVAL is None.",
        "%(n)s items of %(queue)s are in flight although their leases have ended: AUTOCLEAN_INTERVAL is None.",
        n,
    )
    command = f"manage.py srq_recover {shlex.quote(alias)}"
    text %= {"n": grouped(n), "queue": readable(alias)}
    return Finding("abandoned", text, _("They are not recovered automatically. Recover them:"), command, queue=alias)


def _erring(alias: str, counts: Counts, failures: Failures) -> Finding:
    waiting = ngettext("; %s waits to be tried again", "; %s wait to be tried again", counts.retrying)
    words = {
        "queue": readable(alias),
        "percent": failures.percent,
        "n": grouped(failures.ended),
        "span": span(RECENT * MINUTE),
        "error": _(", mostly %s") % readable(failures.error) if failures.error else "",
        "waiting": waiting % grouped(counts.retrying) if counts.retrying else "",
    }
    text = _("%(queue)s fails: %(percent)s %% of %(n)s deliveries in %(span)s%(error)s%(waiting)s.") % words
    advice, state, shown = _("The log of its consumers has the errors."), "", ""
    if counts.retrying:
        requeue = f"manage.py srq_requeue {shlex.quote(alias)} --state delayed"
        advice = _("When the cause is gone, %s makes them ready now. To see them:") % requeue
        state, shown = "delayed", "retrying"  # the page shows both kinds of delayed items
    elif counts.dead:
        advice, state, shown = _("To see the dead items:"), "dead", "dead"
    command = _to_show(alias, shown) if shown else ""
    return Finding("erring", text, advice, command, queue=alias, grave=failures.level == "error", state=state)


def _to_show(alias: str, state: str) -> str:
    return f"manage.py srq_show {shlex.quote(alias)} --state {state}"


def _failing(alias: str, n: int) -> Finding:
    """n: dead items."""
    text = ngettext(
        "%(queue)s has %(n)s dead item, which no consumer will take again.",
        "%(queue)s has %(n)s dead items, which no consumer will take again.",
        n,
    )
    text %= {"n": grouped(n), "queue": readable(alias)}
    return Finding("failing", text, _("To see them:"), _to_show(alias, "dead"), queue=alias, state="dead")


def recovered(alias: str, n: int) -> Finding:
    """n: items in the last hour."""
    text = ngettext(
        "%(queue)s recovered %(n)s item in the last hour: its consumer died, or never settled it.",
        "%(queue)s recovered %(n)s items in the last hour: their consumers died, or never settled them.",
        n,
    )
    return Finding("recovered", text % {"queue": readable(alias), "n": grouped(n)}, queue=alias)


def _stuck(config: QueueConfig, counts: Counts, attendance: Attendance) -> Finding:
    if attendance.silence is None:
        text = _("%(queue)s is stuck: %(work)s, and no consumer was ever seen.")
    elif attendance.last:
        text = _("%(queue)s is stuck: %(work)s, no live consumer for %(span)s (the last one: %(last)s).")
    else:
        text = _("%(queue)s is stuck: %(work)s, no live consumer for %(span)s.")
    work = (_("%s ready or due") if counts.due else _("%s ready")) % grouped(counts.ready + counts.due)
    silence = span(attendance.silence or 0)
    words = {"queue": readable(config.alias), "work": work, "span": silence, "last": readable(attendance.last)}
    advice = (
        _("Start one:")
        if config.handler or is_of_tasks(config)
        else _("It has no HANDLER: start the program that takes its items, or print and ack them:")
    )
    command = f"manage.py srq_consume {shlex.quote(config.alias)}"
    return Finding("stuck", text % words, advice, command, queue=config.alias)


def _late(config: QueueConfig, counts: Counts, attendance: Attendance, oldest_wait: float) -> Finding:
    text = ngettext(
        "%(queue)s is late: %(n)s ready item has waited for %(span)s (MAX_AGE: %(limit)s).",
        "%(queue)s is late: the oldest of %(n)s ready items has waited for %(span)s (MAX_AGE: %(limit)s).",
        counts.ready,
    ) % {
        "queue": readable(config.alias),
        "n": grouped(counts.ready),
        "span": span(oldest_wait),
        "limit": span(config.max_age),
    }
    live = ngettext("It has %s live consumer.", "It has %s live consumers.", attendance.live)
    words = [text, live % grouped(attendance.live)]
    if config.rate:
        most = {"n": grouped(config.rate.count), "span": span(config.rate.seconds)}
        words.append(_("RATE allows at most %(n)s in %(span)s.") % most)
    return Finding("late", " ".join(words), queue=config.alias)


def _paused(alias: str, counts: Counts, pause: Pause) -> Finding:
    said = [
        _("by %s") % readable(pause.by) if pause.by else "",
        _("for %s") % span((counts.at - pause.since).total_seconds()) if pause.since else "",
        _("until %s") % _localised(pause.until) if pause.until else "",
        _("reason: %s") % readable(pause.reason) if pause.reason else "",
    ]
    how = ", ".join(filter(None, said))
    words = {"queue": readable(alias), "how": how, "n": grouped(counts.ready)}
    return Finding("paused", _("%(queue)s is paused (%(how)s): %(n)s ready.") % words, queue=alias)


def pause_of(counts: Counts) -> Pause | None:
    """The pause that was in force when the counts were read; None: there was none."""
    if counts.paused is None:
        return None
    stored = counts.paused if isinstance(counts.paused, Mapping) else {}
    until = stored_moment(stored.get("until"))
    if until is not None and until <= counts.at:
        return None  # it is over; the next claim removes it
    return Pause(str(stored.get("by", "")), str(stored.get("reason", "")), stored_moment(stored.get("since")), until)


def stored_moment(milliseconds: Any) -> dt.datetime | None:
    """The moment that somebody stored; None when it is none, such as of another version."""
    try:
        return from_milliseconds(milliseconds)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _localised(moment: dt.datetime) -> str:
    with suppress(OverflowError):  # the first and last dates of all do not exist in every time zone
        moment = timezone.localtime(moment)
    return date_format(moment, "DATETIME_FORMAT")
