"""Liveness: how an idle connection is checked before a call is trusted to it.

The server may have closed the connection: a look at the socket shows that. Or a firewall or NAT on the way has
forgotten it: then every packet is dropped, and no error comes. So the first call after an idle time goes out together
with a question, the sign of life, which every live server answers at once, however long the call itself takes. When
that answer does not come, the call is repeated on a new connection.
"""

from __future__ import annotations

LOOK_AFTER = 0.001  # seconds idle; after less the socket is not looked at: the system call would slow a busy thread
ASK_AFTER = 1.0  # seconds idle; only after more is a sign of life asked for
# Every user that may run the scripts may call TIME. Any reply is a sign of life, an error too.
SIGN_OF_LIFE = b"*1\r\n$4\r\nTIME\r\n"
# Bytes; a larger command waits for the sign of life: on a slow network, sending it could take the time for the sign.
ALONG_BELOW = 65536
_SHARE, _LONGEST_SHARE = 0.25, 2.0


def share(seconds: float) -> float:
    """Seconds for the sign of life to come, of those that the call has. The others are for a new connection."""
    return min(seconds * _SHARE, _LONGEST_SHARE)
