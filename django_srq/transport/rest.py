"""Rest: what a connection needs that was not used for a while, before a call is trusted to it.

The server may have closed it, which a look at the socket tells. Or a firewall or NAT on the way forgot it: it swallows
all that is sent, and closes nothing. So the first call after a rest goes out with a question that every live server
answers at once, however slow the call itself is; without that answer, the call is repeated on a new connection.
"""

from __future__ import annotations

LULL = 0.001  # seconds; after a rest of that length, the system call for a look at the socket counts for nothing
REST = 1.0  # seconds; after a longer one, a sign of life is asked for
# TIME is allowed to whoever may run the scripts. Any reply will do, also an error.
SIGN_OF_LIFE = b"*1\r\n$4\r\nTIME\r\n"
LARGE = 65536  # bytes; so much is not sent before the sign is there: on a slow way it could take all the time
_SHARE, _LONGEST_SHARE = 0.25, 2.0


def share(seconds: float) -> float:
    """How long the sign of life may take, of the seconds that the call has; then it is repeated on a new connection."""
    return min(seconds * _SHARE, _LONGEST_SHARE)
