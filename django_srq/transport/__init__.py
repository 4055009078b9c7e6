"""How a call gets to a server and back, in a thread or in an event loop.

``django_srq.operations`` makes a ``Call``: a script with its keys and arguments. A ``Link`` sends it to one server:

1. It borrows a slot and gives the call the slot's next number. The server keeps the number and the outcome of the last
   call in each slot, and carries out each number once at most: so every call is safe to send again.
2. It takes an idle connection or opens a new one, sends the call, and waits for the reply.
3. When the connection is lost, it sends the same call over another one, in the same slot and with the same number.
4. When the time limit is over, it raises ``QueueUnavailable`` (the server carried nothing out) or ``OutcomeUnknown``
   (the call was sent, and it is not known whether the server carried it out).

All of this is written once, as generators that do no I/O; a thread or an event loop carries out the effects that they
yield. redis-py opens the connections (host, TLS, credentials, protocol); this package sends and receives over them.

link.py               ``Link``: calls, waits, streams; begin reading here
round_trip.py         one call on its way to the server and back, as often as its budget allows; the error in the end
budget.py             how long and how often a call may be tried
slots.py              the slots of this process
sansio.py             ``Steps`` and ``Effect``: methods written once for threads and event loops
stream.py             calls sent one behind the other, whose replies are read later
connections.py        all connections to one server, in each process its own
sync_pool.py          the connections of the threads of a process
sync_connection.py    a connection of a thread
async_pool.py         the connections of an event loop
async_connection.py   a connection of an event loop
connection_errors.py  how a connection was lost, and whether the server got the command
liveness.py           how an idle connection is checked before a call is trusted to it
flow.py               how long a command or a reply may take once its bytes flow
sockets.py            opens sockets, with TLS or without, within a time limit
tls.py                the TLS context that all connections to a server share
names.py              looks up the addresses of a host within a time limit
clients.py            redis-py clients from URLs and options
refusals.py           the error replies of servers, and what they mean
embedded.py           the Valkey server behind ``embedded://``
"""
