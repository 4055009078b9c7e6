"""Settings of the commands that tests start: without the admin, which each process would have to import."""

import tests.support.lean  # noqa: F401
from tests.settings import *  # noqa: F403

INSTALLED_APPS = ["django_srq"]
MIDDLEWARE: list[str] = []
TEMPLATES: list[object] = []
