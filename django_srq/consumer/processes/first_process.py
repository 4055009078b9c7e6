"""The first process of a container (PID 1), where it would handle items itself.

Processes whose parents have ended become its children there, and it has to reap them. A process that runs handlers
cannot do that: it would take the exit status of the programs that the handlers started. So the work is done in a child,
and the first process does no more than reap, pass on signals and end as its child does (as tini and dumb-init do).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from django_srq.consumer.processes import groups, inheritance
from django_srq.consumer.signal_pipe import LONGEST_WAIT, SignalPipe

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def go_on_in_child() -> bool:
    """Return in a child of this process, if this is the first one; whether that is so. Called in the main thread."""
    if os.getpid() != 1:
        return False
    inheritance.close_all()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()  # or what is in the buffers would come out twice
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*PASSED_ON, signal.SIGCHLD])  # they come afterwards
    try:
        child = os.fork()
        if child:
            _stand_by(child, before)
        # In a session of its own: a terminal's Ctrl-C reaches the first process alone, which passes it on once.
        os.setsid()
    except OSError:  # no room for another process: then nobody reaps
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return True


def _stand_by(child: int, before: set[signal.Signals | int]) -> NoReturn:
    """before: the signals that were blocked."""
    code = 1
    try:
        with SignalPipe(PASSED_ON) as signals:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = _exit_code(child, signals)
    finally:
        os._exit(code)


def _exit_code(child: int, signals: SignalPipe) -> int:
    """That of the child, once it has ended."""
    while True:
        signals.wait(LONGEST_WAIT)
        for number in signals.taken():
            if number in PASSED_ON:
                os.kill(child, number)
        groups.reap_orphans([child])
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
