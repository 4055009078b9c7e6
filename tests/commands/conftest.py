from __future__ import annotations

import django

if django.VERSION < (6, 0):  # there are no tasks
    collect_ignore = ["test_task_commands.py"]
