from __future__ import annotations

from django.contrib import admin
from django.urls import path

from shop.views import note, orders

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", orders, name="orders"),
    path("notes/", note, name="note"),
]
