"""The model that puts the status view into the admin: no table, no rows, only a name and permissions."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class QueueStatus(models.Model):  # noqa: DJ008 (has no rows)
    class Meta:
        managed = False
        verbose_name = _("queue status")
        verbose_name_plural = _("queue status")
        default_permissions = ()
        permissions = (
            ("view", _("Can view the queues")),
            ("view_payload", _("Can view payloads")),
            ("requeue", _("Can requeue dead items")),
            ("drop", _("Can drop items")),
            ("purge", _("Can purge queues")),
            ("pause", _("Can pause and resume queues")),
            ("release", _("Can return items in flight to their queue")),
            ("put", _("Can put items")),
        )
