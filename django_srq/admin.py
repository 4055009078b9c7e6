"""The status view, in the admin's place for a list of objects."""

from __future__ import annotations

from typing import Any

import django
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.text import capfirst

from django_srq import status
from django_srq.models import QueueStatus


@admin.register(QueueStatus)
class QueueStatusAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows; adds, changes and deletes nothing. There are no other URLs than ours."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.changelist_view)
        return [path("", view, name="django_srq_queuestatus_changelist")]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The overview: the verdict, and all queues with their numbers."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        context = {
            **self.admin_site.each_context(request),
            "title": capfirst(self.opts.verbose_name_plural),
            "opts": self.opts,
            "snapshot": status.snapshot(),
            "breadcrumbs_are_a_list": django.VERSION >= (6, 1),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/django_srq/overview.html", context)

    def has_view_permission(self, request: HttpRequest, obj: QueueStatus | None = None) -> bool:
        return request.user.has_perm("django_srq.view")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: QueueStatus | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: QueueStatus | None = None) -> bool:
        return False
