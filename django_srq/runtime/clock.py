"""The clock by which waits end."""

import time
from functools import partial

# time.monotonic(), but not by that name: freezegun, in a test of the project, would stop it, and a wait of ours would
# never end.
monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC) if hasattr(time, "clock_gettime") else time.monotonic
