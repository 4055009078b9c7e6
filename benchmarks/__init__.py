"""How fast the queue is, and what that is compared with: ``python -m benchmarks``, or ``make bench``.

It starts a server of its own, pinned to one core. What is compared runs side by side, alternating, several times: on a
busy machine ratios count, not figures. ``harness.py`` has the frame; a module per kind of measure yields the rows.
"""
