"""Responses that are rendered later on: the cache needs their content now."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.utils.cache import patch_vary_headers

from stream_cached.django.frozen import frozen_in


def rendered(response: Any, request: Any, args: tuple[Any, ...]) -> Any:
    """Render a response of a template, or of Django REST Framework, as its handler would."""
    render = getattr(response, "render", None)
    if not callable(render) or getattr(response, "is_rendered", True):
        return response
    if _is_of_rest_framework(response) and not hasattr(response, "accepted_renderer"):
        if not getattr(request, "accepted_renderer", None):
            return response
        response.accepted_renderer = request.accepted_renderer
        response.accepted_media_type = request.accepted_media_type
        response.renderer_context = _context_of(request, args)
        with _headers_of_view(response, request.parser_context.get("view")):
            return render()
    return render()


@contextmanager
def _headers_of_view(response: Any, view: Any) -> Iterator[None]:
    """Give a response, while it is rendered, the headers that REST Framework adds to it later: its
    browsable pages show them."""
    added: Mapping[str, str] = getattr(view, "headers", None) or {}
    names = [name for name in added if name.lower() not in frozen_in(response)]
    before = {name: response.headers.get(name) for name in names}
    for name in names:
        if name == "Vary":
            patch_vary_headers(response, [each.strip() for each in added[name].split(",")])
        else:
            response.headers[name] = added[name]
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del response.headers[name]
            else:
                response.headers[name] = value


def _is_of_rest_framework(response: object) -> bool:
    module = sys.modules.get("rest_framework.response")
    return module is not None and isinstance(response, module.Response)


def _context_of(request: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    context = request.parser_context
    view = context.get("view")
    if view is not None:
        made: dict[str, Any] = view.get_renderer_context()
        return made
    return {
        "view": None,
        "args": context.get("args", ()),
        "kwargs": context.get("kwargs", {}),
        "request": request,
    }
