from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DjangoSRQConfig(AppConfig):
    name = "django_srq"
    label = "django_srq"
    verbose_name = _("Queues")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django_srq import checks  # noqa: F401 (registers them)
