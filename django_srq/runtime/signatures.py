"""What a function can be called with, as far as its signature tells."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def signature_of(function: Callable[..., Any], *, of_wrapper: bool = False) -> inspect.Signature | None:
    """None: it has none that can be read, such as some builtins. of_wrapper: not that of the decorated function."""
    try:
        return inspect.signature(function, follow_wrapped=not of_wrapper)
    except (TypeError, ValueError):
        return None


def names_parameter(function: Callable[..., Any], name: str) -> bool:
    """Whether a parameter has that name. The first parameter does not count: it gets the payload, whatever its name."""
    signature = signature_of(function)
    return signature is not None and name in list(signature.parameters)[1:]


def refusal(function: Callable[..., Any], name: str) -> str:
    """Why the function cannot be called as a handler: with the payload, and with ``name=`` if it has such a parameter.

    "": it can. A decorator may pass other arguments on, so a decorated function is refused only if its wrapper is, too.
    """
    signature, wrapper = signature_of(function), signature_of(function, of_wrapper=True)
    if signature is None or wrapper is None or not _mismatch(wrapper, name) or not (said := _mismatch(signature, name)):
        return ""
    return f"({', '.join(map(_shown, signature.parameters.values()))}) cannot be called: {said}"


def _mismatch(signature: inspect.Signature, name: str) -> str:
    parameters = list(signature.parameters.values())
    named = {name: None} if name in [parameter.name for parameter in parameters[1:]] else {}
    try:
        signature.bind(None, **named)
    except TypeError as error:
        second = parameters[1:2]
        if not named and second and second[0].default is second[0].empty and len(parameters) == 2:
            return f"the second parameter must be named {name!r}"
        return f"{error} (it gets the payload{f', and {name}= by name' if named else ''})"
    return ""


def _shown(parameter: inspect.Parameter) -> str:
    return _STARS.get(parameter.kind, "") + parameter.name
