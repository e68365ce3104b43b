"""Responses that are rendered later on: the cache needs their content now."""

from __future__ import annotations

import sys
from typing import Any


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
    return render()


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
