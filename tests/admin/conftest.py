from __future__ import annotations

import django

if django.VERSION < (6, 0):  # there are no tasks that could be cancelled
    collect_ignore = ["test_cancel_tasks.py"]
