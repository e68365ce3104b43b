"""What REST Framework puts on its own request, as far as the class of the view says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_cached.django.observed import own_attributes

#: Where the class of a view says of which classes REST Framework makes an attribute.
_CLASSES = {
    "accepted_renderer": "renderer_classes",
    "authenticators": "authentication_classes",
    "negotiator": "content_negotiation_class",
    "parsers": "parser_classes",
    "versioning_scheme": "versioning_class",
}

#: What the key has by value.
_FREE = frozenset({"accepted_media_type", "version"})

#: What REST Framework passes to its parsers.
_CONTEXT = frozenset({"args", "encoding", "kwargs", "request", "view"})


def follows_from_view(request: Any, name: str) -> bool:
    """Whether an attribute of a request is the same for all clients of one view."""
    own = own_attributes(request)
    context, value = own.get("parser_context"), own.get(name)
    if type(context) is not dict or not context.keys() <= _CONTEXT:
        return False
    if name == "parser_context":
        of_view = own_attributes(context.get("view"))
        return all(context.get(each) is of_view.get(each) for each in ("args", "kwargs"))
    if name in _FREE:
        return value is None or isinstance(value, str)
    if name not in _CLASSES:
        return False
    listed = getattr(type(context.get("view")), _CLASSES[name], None)
    made = [*value] if isinstance(value, list | tuple) else [value]
    if value is None or any(_holds_more(each) for each in made):
        return value is None and listed is None
    classes = [*map(type, made)]
    if isinstance(listed, list | tuple):
        return classes == [*listed] or (
            not isinstance(value, list | tuple) and classes[0] in listed
        )
    return classes == [listed]


def _holds_more(made: Any) -> bool:
    own: Mapping[str, Any] = own_attributes(made)
    return bool(own)
