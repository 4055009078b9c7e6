"""The clock by which waits end."""

import time
from functools import partial

# time.monotonic() by another name: in a test of the project, freezegun would stop time.monotonic(), and our waits would
# never end.
monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC) if hasattr(time, "clock_gettime") else time.monotonic
