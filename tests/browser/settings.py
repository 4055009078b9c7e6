"""Settings of the browser tests: the common ones, static files, and a policy that forbids inline code."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.staticfiles"]
MIDDLEWARE = ["tests.browser.csp.strict", "django.middleware.locale.LocaleMiddleware", *MIDDLEWARE]
USE_I18N = True
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
# A file, so that each thread of the live server has a connection of its own. The threads would share the connection of
# a database in memory; one that ended after the live server, which does not wait for it, could not close it.
FOLDER = TemporaryDirectory(prefix="srq-browser-")
FILE = str(Path(FOLDER.name) / "db.sqlite3")
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FILE,
        "TEST": {"NAME": FILE},
        "OPTIONS": {"timeout": 20},
    }
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
