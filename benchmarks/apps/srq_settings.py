"""A Django project with one queue and the default options."""

import os

SECRET_KEY = "for the benchmark only"
INSTALLED_APPS = ["django_srq"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
SRQ_QUEUES = {"bench": {"URL": os.environ["BENCH_URL"], "HANDLER": "srq_app.handle"}}
