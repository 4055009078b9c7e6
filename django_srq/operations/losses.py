"""Losses: how a server may lose items, by the fields that it reports about itself (INFO)."""

from __future__ import annotations

from collections.abc import Mapping


def keeps_no_file(info: Mapping[str, str]) -> bool:
    """Whether the server writes no append-only file: when it ends, it loses the changes since its data were saved."""
    return info.get("aof_enabled") == "0"


def may_evict(info: Mapping[str, str]) -> bool:
    """Whether the server drops any keys when its memory is full, also those without an expiry."""
    return info.get("maxmemory", "0") != "0" and info.get("maxmemory_policy", "").startswith("allkeys")
