"""A Django project whose tasks go to the backend that BENCH_BACKEND names; each keeps results as long as by default."""

import json
import os

URL = os.environ["BENCH_URL"]
BACKENDS = {
    "srq": ("django_srq", {"BACKEND": "django_srq.tasks.SRQBackend", "OPTIONS": {"URL": URL}}),
    "redis": (
        "django_tasks_redis",
        {"BACKEND": "django_tasks_redis.RedisTaskBackend", "OPTIONS": {"REDIS_URL": URL}},
    ),
    "database": ("django_tasks_db", {"BACKEND": "django_tasks_db.DatabaseBackend"}),
    "threadmill": ("threadmill", {"BACKEND": "threadmill.backends.redis.RedisTaskBackend", "REDIS_URL": URL}),
}

SECRET_KEY = "for the benchmark only"
USE_TZ = True
app, backend = BACKENDS[os.environ["BENCH_BACKEND"]]
INSTALLED_APPS = [app]
TASKS = {"default": backend}
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    | json.loads(os.environ.get("BENCH_DATABASE", "{}"))
}
