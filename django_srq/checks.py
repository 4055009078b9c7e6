"""The system checks: they present the problems that ``conf`` finds. They open no connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from django_srq import conf
from django_srq.conf import Problem


@register("django_srq")
def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """E001 to E007, E012 to E016, W009: the settings as they are written."""
    return [_message(problem) for problem in dict.fromkeys((*conf.load().problems, *conf.unknown_databases()))]


@register("django_srq")
def check_imports(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """E008 (a warning here) to E010: handlers, serializers and the status view's functions can be used."""
    return [_message(problem) for problem in (*conf.import_problems(), *conf.admin_import_problems())]


@register("django_srq")
def check_client_options(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """E004, E011, W002: the files that options name and the packages are there, and the options have an effect."""
    found = (*conf.missing_files(), *conf.missing_packages(), *conf.options_without_effect())
    return [_message(problem) for problem in found]


@register("django_srq", Tags.caches)
def check_databases(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """W001: no cache shares a queue's database."""
    return [_message(problem) for problem in conf.shared_databases()]


@register("django_srq", deploy=True)
def check_deployment(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """W004 to W008, for ``check --deploy``: what is well while a project is developed, and not on a server."""
    found = (
        *conf.shared_servers(),
        *conf.embedded_servers(),
        *conf.pickled_queues(),
        *conf.default_prefixes(),
        *conf.silent_failures(),
    )
    return [_message(problem) for problem in found]


def _message(problem: Problem) -> CheckMessage:
    kind = Error if problem.id.rpartition(".")[2].startswith("E") and not problem.warning else Warning
    return kind(problem.message, hint=problem.hint or None, id=problem.id)
