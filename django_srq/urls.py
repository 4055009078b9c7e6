from __future__ import annotations

from django.urls import path

from django_srq.status import endpoints

app_name = "django_srq"
urlpatterns = [
    path("status.json", endpoints.status_json, name="status"),
    path("metrics", endpoints.metrics, name="metrics"),
    path("health", endpoints.health, name="health"),
    path("live", endpoints.live, name="live"),
]
