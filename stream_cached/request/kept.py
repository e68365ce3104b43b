"""What a request keeps of what it says, once something has asked: its query, its URL, its body.

All dependencies of a FastAPI endpoint share one request, and may put something else there, such as
the id of the user for `?user=me`. Then it is no longer what the key is made of.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import URL, QueryParams
from starlette.requests import HTTPConnection
from starlette.types import Scope

#: The attributes in which Starlette's Request caches what it has parsed of a part of the request.
CACHED_ATTRIBUTES = {
    "_base_url": "host",
    "_cookies": "cookies",
    "_headers": "headers",
    "_url": "host",
}

#: Those that keep its body or its query.
INPUT_ATTRIBUTES = {
    **dict.fromkeys(("_body", "_form", "_json"), "body"),
    **dict.fromkeys(("_query_params", "_url"), "query"),
}

#: Attributes of Starlette's Request itself.
OWN_ATTRIBUTES = frozenset(
    {
        *CACHED_ATTRIBUTES,
        *("_body", "_form", "_is_disconnected", "_json", "_receive", "_send", "_state"),
        *("_query_params", "_stream_consumed", "scope"),
    }
)

#: All that a request has before something has asked for a part of it. The form is None then.
FRESH = frozenset({"_form", "_is_disconnected", "_receive", "_send", "_stream_consumed", "scope"})

_NOTHING: tuple[str, ...] = ()


def replaced_parts(request: HTTPConnection, scope: Scope, *, has_body: bool) -> tuple[str, ...]:
    """
    Return the attributes that keep something else than a request says.

    Args:
        request: The request, not observed.
        scope: Its scope.
        has_body: Whether its body is part of the key.
    """
    kept = request.__dict__
    headers, query = kept.get("_headers"), kept.get("_query_params")
    names: tuple[str, ...] = _NOTHING
    if headers is not None and headers._list != scope["headers"]:
        names = ("_headers",)
    if query is not None and not _is_of_query(query, scope.get("query_string", b"")):
        names = (*names, "_query_params")
    # Hardly any dependency asks for more than these.
    return names if _RARE.isdisjoint(kept) else (*names, *_rare(kept, scope, has_body=has_body))


_RARE = frozenset({"_base_url", "_body", "_form", "_json", "_url"})


def _rare(kept: Mapping[str, Any], scope: Scope, *, has_body: bool) -> list[str]:
    names = []
    if "_url" in kept and kept["_url"] != URL(scope=scope):
        names.append("_url")
    if "_base_url" in kept and kept["_base_url"] != HTTPConnection(dict(scope)).base_url:
        names.append("_base_url")
    # An attribute without content is what a request without a body has.
    names += [name for name in ("_body", "_form") if kept.get(name) and not has_body]
    if "_json" in kept and "_body" not in kept:
        names.append("_json")
    return names


def all_replaced_parts(request: HTTPConnection, *, has_body: bool) -> tuple[str, ...]:
    """Return the same once the endpoint runs, which may take the time to parse a body once more."""
    replaced = replaced_parts(request, request.scope, has_body=has_body)
    return (*replaced, "_json") if _is_json_replaced(request.__dict__) else replaced


def _is_json_replaced(kept: Mapping[str, Any]) -> bool:
    """Whether a request keeps another JSON than that of its body, or has changed it."""
    with contextlib.suppress(KeyError, ValueError):
        return bool(kept["_json"] != json.loads(kept["_body"]))
    return "_json" in kept


@functools.lru_cache(maxsize=1024)
def _parsed(query: bytes) -> QueryParams:
    return QueryParams(query)


def _is_of_query(params: Any, query: bytes) -> bool:
    """Whether parameters are those of a query, also where their parts were changed in place."""
    expected = _parsed(query)
    return bool(params._list == expected._list and params._dict == expected._dict)
