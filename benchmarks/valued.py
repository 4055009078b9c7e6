"""Tasks that return values, for ``benchmarks.deaths``; needs settings with TASKS."""

from __future__ import annotations

import time

from django.tasks import task


@task
def square(number: int, seconds: float) -> dict[str, int]:
    time.sleep(seconds)
    return {"number": number, "square": number * number}
