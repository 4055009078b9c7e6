from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from shop.views import note, orders

urlpatterns = [
    path("admin/", admin.site.urls),
    path("srq/", include("django_srq.urls")),
    path("", orders, name="orders"),
    path("notes/", note, name="note"),
]
