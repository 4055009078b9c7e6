"""How a server may lose what it was given, by its own account of itself (INFO)."""

from __future__ import annotations

from collections.abc import Mapping


def keeps_no_file(info: Mapping[str, str]) -> bool:
    """Whether it writes no append-only file: when it ends, it loses what came since it last saved its data."""
    return info.get("aof_enabled") == "0"


def may_evict(info: Mapping[str, str]) -> bool:
    """Whether it drops keys of any kind when its memory is full."""
    return info.get("maxmemory", "0") != "0" and info.get("maxmemory_policy", "").startswith("allkeys")
