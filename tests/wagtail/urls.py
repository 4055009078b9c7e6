from django.contrib import admin
from django.urls import include, path
from wagtail import urls
from wagtail.admin import urls as cms

urlpatterns = [path("admin/", admin.site.urls), path("cms/", include(cms)), path("", include(urls))]
