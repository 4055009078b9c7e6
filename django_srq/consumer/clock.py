"""The clock by which a consumer knows when its leases end."""

import time

# Where it is missing, as on macOS, the monotonic one counts a suspension.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def lease_time() -> float:
    """Seconds since some moment, the same for all processes of a machine.

    It goes on while the machine is suspended, as the server's does; ``time.monotonic()`` stands still on Linux.
    """
    return time.clock_gettime(_CLOCK)
