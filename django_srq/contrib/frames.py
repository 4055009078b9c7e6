"""The frames of an error that are worth showing: those of the project."""

from __future__ import annotations

import os
from importlib.util import find_spec
from types import TracebackType

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _folders() -> tuple[str, ...]:
    """The folders of this package, and of the libraries through which it runs async handlers."""
    found = [find_spec("asgiref"), find_spec("asyncio"), find_spec("concurrent")]
    return (PACKAGE, *(folder + os.sep for spec in found if spec for folder in spec.submodule_search_locations or ()))


_FOLDERS = _folders()


def own(start: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames that led to the handler; the whole one if it has no others."""
    step = start
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_FOLDERS):
        step = step.tb_next
    return step or start


def is_ours(path: str | None) -> bool:
    """Whether a file belongs to this package."""
    return path is not None and path.startswith(PACKAGE)
