"""Rest: how a connection that was not used for a while is checked, before a call is trusted to it.

The server may have closed the connection: a look at the socket shows that. Or a firewall or NAT on the way has
forgotten it: then every packet is dropped, and no error comes. So the first call after a rest goes out together with a
question, the sign of life, which every live server answers at once, however long the call itself takes. When that
answer does not come, the call is repeated on a new connection.
"""

from __future__ import annotations

LULL = 0.001  # seconds; after a shorter rest the socket is not looked at: the system call would slow a busy thread
REST = 1.0  # seconds; only after a longer rest is a sign of life asked for
# Every user that may run the scripts may call TIME. Any reply is a sign of life, an error too.
SIGN_OF_LIFE = b"*1\r\n$4\r\nTIME\r\n"
LARGE = 65536  # bytes; such a command waits for the sign: on a slow network, sending it could take the sign's time
_SHARE, _LONGEST_SHARE = 0.25, 2.0


def share(seconds: float) -> float:
    """Seconds for the sign of life to come, of those that the call has. The rest is for a new connection."""
    return min(seconds * _SHARE, _LONGEST_SHARE)
