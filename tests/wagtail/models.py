"""A kind of page whose text can be searched."""

from django.db import models
from wagtail.models import Page
from wagtail.search import index


class Article(Page):
    text = models.TextField()

    content_panels = [*Page.content_panels, "text"]
    search_fields = [*Page.search_fields, index.SearchField("text")]

    class Meta:
        app_label = "press"
