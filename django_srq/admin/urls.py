"""The URLs of the status view, below the URL of its model in an admin site."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.urls import URLPattern, path

from django_srq.admin.actions import Actions
from django_srq.admin.frame import View
from django_srq.admin.pages import Pages


def urls(site: AdminSite, overview: View) -> list[URLPattern]:
    """overview: the changelist view, which a project's subclass may extend."""
    pages, actions = Pages(site), Actions(site)
    name = "django_srq_queuestatus_{}".format
    # Aliases are quoted as the admin quotes keys. The admin links to the page of an object by the name "change".
    return [
        path("", pages.guarded(overview), name=name("changelist")),
        path("consumers/", pages.guarded(pages.consumers), name=name("consumers")),
        path("activity/", pages.guarded(pages.activity), name=name("activity")),
        path("find/", pages.guarded(pages.find), name=name("find")),
        path("operation/", actions.guarded(actions.operation, "POST"), name=name("operation")),
        path("queue/<str:alias>/", pages.guarded(pages.queue), name=name("change")),
        path("queue/<str:alias>/item/", pages.guarded(pages.item), name=name("item")),
        path("queue/<str:alias>/<str:action>/", actions.guarded(actions.act, "GET", "POST"), name=name("act")),
    ]
