"""A middleware with a Content-Security-Policy that allows only 'self' and a nonce; it works with every Django."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse


def strict(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def respond(request: HttpRequest) -> HttpResponse:
        request.csp_nonce = secrets.token_urlsafe(16)
        response = get_response(request)
        nonce = f"'self' 'nonce-{request.csp_nonce}'"
        response["Content-Security-Policy"] = (
            f"default-src 'self'; script-src {nonce}; style-src {nonce}; base-uri 'none'; form-action 'self'"
        )
        return response

    return respond
