"""The clock of a consumer's leases."""

import time

# Where CLOCK_BOOTTIME is missing, as on macOS, the monotonic clock goes on during a suspension.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def lease_time() -> float:
    """Seconds since some moment, which is the same for all processes of a machine.

    This clock goes on while the machine is suspended, as the server's clock does. On Linux ``time.monotonic()`` stands
    still then.
    """
    return time.clock_gettime(_CLOCK)
