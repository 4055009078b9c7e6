from __future__ import annotations

import django

if django.VERSION < (6, 0):  # there are no tasks
    collect_ignore = ["test_cancel_tasks.py", "test_tasks.py", "test_tasks_that_ran.py"]
