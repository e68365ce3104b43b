"""Where only some names of the query are part of the key, a view still has a QueryDict."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse, QueryDict

from stream_cached.django import cache_stream
from tests.django.asking import nobody_is_given_what_is_anothers, request_of
from tests.django.conftest import Site
from tests.django.test_answers import status


def updated(query: Any) -> Any:
    found: dict[str, Any] = {}
    found.update(query)
    return found


def keywords(**query: Any) -> Any:
    return query


def changed(query: Any) -> Any:
    query._mutable = True
    query["more"] = "1"
    query.setlist("page", ["8", "9"])
    query |= {"last": "2"}
    query.pop("who")
    query._mutable = False
    return query.urlencode()


#: What a view may do with a query.
READS: dict[str, Callable[[Any], Any]] = {
    "item": lambda query: query["who"],
    "get": lambda query: query.get("who"),
    "getlist": lambda query: query.getlist("who"),
    "in": lambda query: "who" in query,
    "str": str,
    "repr": repr,
    "format": lambda query: f"{query}",
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "copy": lambda query: query.copy(),
    "pickle": lambda query: pickle.loads(pickle.dumps(query)),
    "dict": dict,
    "dict with more": lambda query: dict(query, more=1),
    "{**}": lambda query: {**query},
    "**": lambda query: keywords(**query),
    "update": updated,
    "merged": lambda query: query | {"a": "1"},
    "merged into": lambda query: {"a": "1"} | query,
    "keys": lambda query: [query[name] for name in query.keys()],  # noqa: SIM118
    "keys of a variable": lambda query: (lambda keys: [query[n] for n in keys])(query.keys()),
    "values": lambda query: [*query.values()],
    "items": lambda query: [*query.items()],
    "lists": lambda query: [*query.lists()],
    "list": list,
    "reversed": lambda query: [*reversed(query)],
    "sorted": sorted,
    "len": len,
    "bool": bool,
    "urlencode": lambda query: query.urlencode(),
    "dict()": lambda query: query.dict(),
    "json": json.dumps,
    "==": lambda query: query == QueryDict("page=1&page=2&who=ada"),
    "== the other way": lambda query: QueryDict("page=1&page=2&who=ada") == query,
    "!=": lambda query: query != QueryDict("page=1&page=2&who=ada"),
    "== itself": lambda query: query == query.copy(),
    "changed": changed,
    "pop": lambda query: query.pop("who"),
    "_mutable": lambda query: query._mutable,
    "encoding": lambda query: query.encoding,
    "isinstance": lambda query: (isinstance(query, QueryDict), isinstance(query, dict)),
}


def query_of(who: str) -> Any:
    return request_of(who, f"/view?page=1&page=2&who={who}")


@pytest.mark.parametrize("name", READS)
def test_a_view_finds_what_it_finds_without_the_cache(name: str, site: Site) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        found = READS[name](request.GET)
        return HttpResponse(f"{type(found).__name__} {found}")

    site()
    nobody_is_given_what_is_anothers(
        lambda cached: cached(view), cache_stream(60, query=("page",)), query_of
    )


def test_what_is_in_the_key_may_be_read(site: Site) -> None:
    @cache_stream(60, query=("page",))
    def view(request: HttpRequest) -> HttpResponse:
        assert isinstance(request.GET, QueryDict)
        names = [request.GET["page"], *request.GET.getlist("page"), "page" in request.GET]
        return HttpResponse(str(names))

    site()
    assert [status(view(query_of(who))) for who in ("ada", "grace")] == ["fwd=uri-miss", "hit"]
