from django.apps import AppConfig


class PressConfig(AppConfig):
    name = "tests.wagtail"
    label = "press"
