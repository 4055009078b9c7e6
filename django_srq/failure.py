"""What is kept of an error: enough to see what went wrong and to group what went wrong alike."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType

MESSAGE_MOST = 1_000  # characters
TRACEBACK_MOST = 8_000  # characters; of a longer one the end is kept
_NOT_THE_PROJECT = ("site-packages", "dist-packages", sys.base_prefix, "<")


def describe(error: BaseException | str, *, consumer: str = "") -> bytes:
    """The error as the JSON object that ``fail`` stores; the script adds time and delivery."""
    if isinstance(error, str):
        kept = {"type": "Failed", "message": error[:MESSAGE_MOST], "fingerprint": f"Failed: {error[:100]}"}
    else:
        name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        kept = {
            "type": name,
            "message": text_of(error)[:MESSAGE_MOST],
            "traceback": "".join(traceback.format_exception(error))[-TRACEBACK_MOST:],
            "fingerprint": f"{name} {_origin(error.__traceback__)}".strip(),
        }
    if consumer:
        kept["consumer"] = consumer
    return json.dumps({name: _encodable(text) for name, text in kept.items()}, ensure_ascii=False).encode()


def text_of(error: BaseException) -> str:
    """What it says; some exceptions of others raise when they are asked."""
    try:
        return str(error)
    except Exception as failure:
        return f"<its text cannot be had: {type(failure).__name__}>"


def _encodable(text: str) -> str:
    """Half of a surrogate pair, which an error's text may have, is spelled out: the server's JSON knows none."""
    return text.encode(errors="backslashreplace").decode()


def _origin(start: TracebackType | None) -> str:
    """The last frame in the project's own code, else the last of all."""
    frames = list(_frames(start))
    own = [frame for frame in frames if not any(part in frame[0] for part in _NOT_THE_PROJECT)]
    if not frames:
        return ""
    file, function = (own or frames)[-1]
    return f"{file.rpartition('/')[2]}:{function}"


def _frames(step: TracebackType | None) -> Iterator[tuple[str, str]]:
    while step is not None:
        code = step.tb_frame.f_code
        yield code.co_filename, code.co_qualname
        step = step.tb_next


def of_death(how: str, *, consumer: str, run_time: float, memory: int) -> bytes:
    """The evidence of a consumer process that died in mid-item, as the JSON object that ``crashed`` stores.

    how: such as "killed by SIGKILL"; run_time: seconds that the item had been handled; memory: bytes at most.
    """
    kept = {
        "type": "Crashed",
        "message": f"the process was {how} after {run_time:.1f} s of this item, at most {memory >> 20} MiB large",
        "fingerprint": f"Crashed: {how}",
        "consumer": consumer,
        "run_time": round(run_time, 3),
        "memory": memory,
    }
    return json.dumps(kept).encode()
