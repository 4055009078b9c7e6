"""A Django project whose tasks go to django-tasks-redis."""

import os

SECRET_KEY = "for the benchmark only"
INSTALLED_APPS = ["django_tasks_redis"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
TASKS = {
    "default": {
        "BACKEND": "django_tasks_redis.RedisTaskBackend",
        "QUEUES": [],
        "OPTIONS": {"REDIS_URL": os.environ["BENCH_URL"]},
    }
}
