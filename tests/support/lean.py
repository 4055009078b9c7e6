"""Makes a Python process of a test cheaper; tests start hundreds of them."""

import gc
import sys

# redis-py imports the SDK of OpenTelemetry where it is installed: a tenth of what the start of a command costs.
sys.modules["opentelemetry"] = None  # type: ignore[assignment]

import redis.asyncio  # noqa: E402, F401  # the processes import it anyway; after the line above, and before the one below

# Python looks for garbage among all objects, several times at its end: a fifth of what a short command costs.
# It goes on to look among the objects that are made from here on, so those of the package. The two tests that are about
# the search itself undo this in their settings.
gc.freeze()
