"""Settings of the commands that tests start: without the admin, which each process would have to import."""

import sys

from tests.settings import *  # noqa: F403

# redis-py imports the SDK of OpenTelemetry where it is installed: a tenth of what the start of a command costs.
sys.modules["opentelemetry"] = None  # type: ignore[assignment]

INSTALLED_APPS = ["django_srq"]
MIDDLEWARE: list[str] = []
TEMPLATES: list[object] = []
