from __future__ import annotations

from django.urls import path

from django_srq import machine

app_name = "django_srq"
urlpatterns = [
    path("status.json", machine.status_json, name="status"),
    path("metrics", machine.metrics, name="metrics"),
    path("health", machine.health, name="health"),
    path("live", machine.live, name="live"),
]
