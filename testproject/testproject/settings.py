"""A small shop with the settings that a project would have. For development only.

By default the queues are on an embedded server. With REDIS_URL, the queue ``test`` uses that URL, and ``orders`` the
address of a cache of django-redis, in the next database of the same server.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BASE_DIR = Path(os.environ.get("SHOP_DATA", Path(__file__).resolve().parent.parent))
SECRET_KEY = "for development only"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_srq",
    "shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
ROOT_URLCONF = "testproject.urls"
WSGI_APPLICATION = "testproject.wsgi.application"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
        # Server and consumer write to it at the same time.
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    },
}

REDIS_URL = os.environ.get("REDIS_URL")
CACHES: dict[str, Any] = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
_orders: dict[str, Any] = {"URL": "embedded://"}
_test: dict[str, Any] = {"URL": "embedded://"}
if REDIS_URL:
    # cache.clear() empties a whole database, so the cache whose address the queue uses has one for itself.
    _parts = urlsplit(REDIS_URL)
    _database = int(_parts.path.strip("/") or 0) + 1
    CACHES["queues"] = {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": _parts._replace(path=f"/{_database}").geturl(),
    }
    _orders, _test = {"CACHE": "queues"}, {"URL": REDIS_URL}

SRQ_QUEUES = {
    "orders": {
        **_orders,
        "PREFIX": "shop.orders",
        "HANDLER": "shop.handlers.handle_order",
        "LEASE": float(os.environ.get("SHOP_LEASE", "15")),
    },
    "test": {**_test, "SERIALIZER": "raw"},
}
