from __future__ import annotations

import sys
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.signals import setting_changed
from django.utils.translation import gettext_lazy as _


class DjangoSRQConfig(AppConfig):
    name = "django_srq"
    label = "django_srq"
    verbose_name = _("Queues")
    default_auto_field = "django.db.models.BigAutoField"

    def __init__(self, app_name: str, app_module: Any) -> None:
        super().__init__(app_name, app_module)
        # Django makes all apps' configurations before it loads the first models.
        if sys.argv[1:2] == ["srq_consume"] and "--autoreload" in sys.argv and not {"-h", "--help"} & {*sys.argv}:
            from django_srq.consumer import reloader

            reloader.run_if_setup_fails()

    def ready(self) -> None:
        from django_srq import checks  # noqa: F401 (registers them)

        _guard_puts(setting="SRQ_TEST_GUARD", value=getattr(settings, "SRQ_TEST_GUARD", False))
        setting_changed.connect(_guard_puts)


def _guard_puts(*, setting: str, value: Any, **_kwargs: Any) -> None:
    if setting == "SRQ_TEST_GUARD" and value:
        from django_srq import testing

        testing.guard()
