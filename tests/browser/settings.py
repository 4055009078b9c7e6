"""Settings of the browser tests: the common ones, static files, and a policy that forbids inline code."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.staticfiles"]
MIDDLEWARE = ["tests.browser.csp.strict", "django.middleware.locale.LocaleMiddleware", *MIDDLEWARE]
USE_I18N = True
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
# A file, which the threads of the test and of the live server share.
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "OPTIONS": {"timeout": 20}}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
