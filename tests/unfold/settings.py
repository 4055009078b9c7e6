"""Settings of the tests under django-unfold, which replaces the looks of the admin."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

INSTALLED_APPS = ["unfold", *INSTALLED_APPS, "django.contrib.staticfiles"]
