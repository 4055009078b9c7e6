"""The status view of the admin, in place of a list of objects."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern

from django_srq.admin.pages import Pages
from django_srq.admin.urls import urls
from django_srq.models import QueueStatus
from django_srq.status import access


@admin.register(QueueStatus)
class QueueStatusAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows the queues. Nothing can be added, changed or deleted, and only the URLs of ``urls.py`` exist."""

    def get_urls(self) -> list[URLPattern]:
        return urls(self.admin_site, self.changelist_view)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The overview: the verdict, and all queues with their numbers."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        return Pages(self.admin_site).overview(request, extra_context)

    def has_view_permission(self, request: HttpRequest, obj: QueueStatus | None = None) -> bool:
        return access.may(request, "view")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: QueueStatus | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: QueueStatus | None = None) -> bool:
        return False
