"""Measures how fast the queue is, beside other queues and bare commands: ``python -m benchmarks``, or ``make bench``.

It starts a server of its own, pinned to one core. The contenders run alternately, several times: on a busy machine the
ratios count, not the figures. ``harness.py`` has the frame; each other module measures one thing and yields rows.
"""
