"""The first process of a container (PID 1), if a consumer without child processes runs in it.

Processes whose parents have ended become children of the first process, and it has to reap them. A process that runs
handlers cannot do that: it would take the exit status of programs that the handlers started. So a child does the work,
and the first process only reaps, passes on signals, and ends with its child's exit code (as tini and dumb-init do).
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
    """If this is the first process, fork, and return True in the child; the first process itself does not return.

    False: this is another process, or there is no room for a child. Called in the main thread.
    """
    if os.getpid() != 1:
        return False
    inheritance.close_all()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()  # else the child would write the contents of the buffers once more
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*PASSED_ON, signal.SIGCHLD])  # until there is a handler for them
    try:
        child = os.fork()
        if child:
            _stand_by(child, before)
        # In a session of its own: a terminal's Ctrl-C reaches the first process alone, which passes it on once.
        os.setsid()
    except OSError:  # no room for another process: then this one does the work, and nobody reaps
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return True


def _stand_by(child: int, before: set[signal.Signals | int]) -> NoReturn:
    """Be the first process, until its child has ended. before: the signals that were blocked before the fork."""
    code = 1
    try:
        with SignalPipe(PASSED_ON) as signals:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = _exit_code(child, signals)
    finally:
        os._exit(code)


def _exit_code(child: int, signals: SignalPipe) -> int:
    """The exit code of the child, once it has ended; 128 + number if a signal killed it. Blocks."""
    while True:
        signals.wait(LONGEST_WAIT)
        for number in signals.read():
            if number in PASSED_ON:
                os.kill(child, number)
        groups.reap_orphans([child])
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
