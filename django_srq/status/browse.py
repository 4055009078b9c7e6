"""Reads what the pages of one queue show: pages of items, groups of failed items, single items. Changes nothing.

Each read is one round trip within the view's time limit, and fails with an ``SRQError`` only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from django_srq import conf, operations
from django_srq.conf import QueueConfig
from django_srq.exceptions import SRQError
from django_srq.operations import Call, ErrorGroup, ItemPage, ItemView, Keys
from django_srq.registry import link_to
from django_srq.status.reading import by_server, read_all
from django_srq.status.redaction import payload_shown, redacted_text
from django_srq.status.tasks import DoneTask, done_task, is_of_tasks

T = TypeVar("T")

PAGE = 50  # items
SEARCHED = 1000  # uids that a search looks at in one request
LARGEST_IN_LIST, LARGEST = 16 * 1024, 64 * 1024  # bytes of a payload that is read: in a list, and alone
NEWEST_FIRST = {"dead"}


def page_of(
    config: QueueConfig, state: str, *, anchor: str = "0", group: str = "", text: str = "", payloads: bool = False
) -> ItemPage:
    """A page of the items of a state.

    anchor: where it begins. group: only dead or retrying items of this group. text: only items that show this text.
    payloads: whether payloads are read, and searched.
    """
    call = operations.list_items(
        Keys(config.prefix),
        state,
        anchor=anchor,
        count=SEARCHED if text else PAGE,
        look=SEARCHED if group or text else PAGE,
        newest=state in NEWEST_FIRST,
        largest=LARGEST_IN_LIST if payloads else 0,
        detail="last",
        group=group,
    )
    listing = _ask(config, call)
    return _found(config, listing, state, text, payloads=payloads) if text else listing


def _found(config: QueueConfig, listing: ItemPage, state: str, text: str, *, payloads: bool) -> ItemPage:
    """Keep the items that show the text, at most a page. Where it stops depends on nothing that is hidden."""
    fitting = (item for item in listing.items if matches(config, item, text, payloads=payloads))
    items = list(islice(fitting, PAGE))
    if len(items) < PAGE or items[-1] is listing.items[-1]:
        return replace(listing, items=items)
    last = items[-1]
    after = (last.position or 0) + 1
    anchor = str(after) if state == "ready" else f"a{last.score} {last.uid}"
    return replace(listing, items=items, looked=after - listing.first, anchor=anchor)


def groups_of(config: QueueConfig, state: str) -> list[ErrorGroup]:
    """The dead items, or the delayed ones that are retrying, in groups by their errors."""
    groups = {"dead": operations.dead_groups, "delayed": operations.retry_groups}[state]
    return _ask(config, groups(Keys(config.prefix)))


@dataclass(frozen=True)
class DonePage:
    tasks: Sequence[DoneTask]  # newest first
    before: float | None  # where the next page begins; None at the end


def item_of(config: QueueConfig, uid: str) -> ItemView | None:
    """The item; or a DoneTask, if the result of the task is kept."""
    keys = Keys(config.prefix)
    # In this order: an item that is done between the two calls is found by the second one.
    asked: list[Call[Any]] = [operations.show(keys, uid, largest=LARGEST)]
    if is_of_tasks(config):
        asked.append(operations.results(keys, [uid]))
    item, *results = _ask_all(config, asked)
    done = [done_task(view, largest=LARGEST) for (view,) in results if view is not None and view.state == "done"]
    return item or next(iter(done), None)


def done_of(config: QueueConfig, before: float | None = None) -> DonePage:
    """A page of the tasks that are done and whose results are kept. before: where it begins; None: at the newest."""
    page = _ask(config, operations.finished(Keys(config.prefix), before=before, n=PAGE))
    return DonePage([done_task(view, largest=LARGEST_IN_LIST) for view in page.items], page.before)


@dataclass
class _Search:
    """A search for an item in the queues of one server, as ``read_all`` carries it out."""

    uid: str
    configs: Sequence[QueueConfig]
    replies: Sequence[Any] = ()
    answered: Sequence[tuple[str, Any]] = ()

    def read(self, timeout: float) -> None:
        asked = [(config.alias, operations.find(Keys(config.prefix), [self.uid])) for config in self.configs]
        with suppress(SRQError):
            self.replies = link_to(self.configs[0]).look(asked, timeout=timeout)

    def conclude(self, timeout: float) -> None:
        aliases = [config.alias for config in self.configs]
        self.answered = [
            pair for pair in zip(aliases, self.replies, strict=False) if not isinstance(pair[1], Exception)
        ]


def places_of(uid: str, aliases: Sequence[str]) -> tuple[list[str], list[str]]:
    """The aliases of the queues that have an item with this uid, and of those that could not be read."""
    loaded = conf.load()
    searches = [_Search(uid, configs) for configs in by_server(loaded, aliases).values()]
    read_all(searches, loaded.admin.timeout)
    answers = dict(pair for search in searches for pair in search.answered)
    found = [alias for alias in aliases if alias in answers and _has_page(loaded.queues[alias], answers[alias][0])]
    return found, [alias for alias in aliases if alias not in answers]


def _has_page(config: QueueConfig, found: Collection[str]) -> bool:
    """Whether a uid that was found under these keys has a page."""
    return "items" in found or (is_of_tasks(config) and "results" in found)


def matches(config: QueueConfig, item: ItemView, text: str, *, payloads: bool) -> bool:
    """Whether the text is in the uid, error or payload as they are shown: a search finds nothing that is hidden."""
    if text in item.uid or text in _words_of(item.delivery.error):
        return True
    return payloads and _without_blanks(text) in _without_blanks(payload_shown(config, item.payload, item.size).text)


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _words_of(error: Mapping[str, Any] | None) -> str:
    return redacted_text("\n".join(str(part) for part in error.values())) if error else ""


def _ask(config: QueueConfig, call: Call[T]) -> T:
    (reply,) = _ask_all(config, [call])
    return reply  # type: ignore[no-any-return]


def _ask_all(config: QueueConfig, calls: Sequence[Call[Any]]) -> list[Any]:
    """The replies to the calls, which are made in one round trip. Raises the first error."""
    replies = link_to(config).look([(config.alias, call) for call in calls], timeout=conf.load().admin.timeout)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
