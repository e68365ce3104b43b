# mypy: disable-error-code="misc,untyped-decorator"
"""Views of Django REST Framework."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import StreamingHttpResponse
from django.test import Client
from rest_framework import generics, pagination, viewsets
from rest_framework.authtoken.models import Token
from rest_framework.decorators import action
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.response import Response
from rest_framework.throttling import SimpleRateThrottle
from rest_framework.views import APIView

from stream_cached.django import CachedStreamingHttpResponse, cache_stream
from tests.django.conftest import Site
from tests.django.private_views import PRIVATE, Users
from tests.django.test_answers import content, status

_names = itertools.count()


@pytest.fixture
def users(database: None) -> Iterator[list[User]]:
    made = [User.objects.create_user(f"user{next(_names)}", password="x") for _ in range(2)]
    yield made
    for each in made:
        each.delete()


class Upper(BaseRenderer):
    media_type = "text/x-upper"
    format = "upper"

    def render(self, data: Any, accepted_media_type: Any = None, context: Any = None) -> bytes:
        assert context["view"].request is context["request"]
        return str(data).upper().encode()


def test_responses_are_rendered_as_they_are_negotiated(site: Site) -> None:
    runs: list[int] = []

    class Own(APIView):
        renderer_classes = (JSONRenderer, Upper)

        @cache_stream(60)
        def get(self, request: Any) -> Response:
            runs.append(1)
            return Response({"a": 1}, headers={"X-Own": "1"})

    client = site(Own.as_view(), middleware=())
    target = "/view"
    for _ in range(2):
        for accept, body, kind in (
            ("application/json", b'{"a":1}', "application/json"),
            ("text/x-upper", b"{'A': 1}", "text/x-upper"),
            ("text/x-upper, text/html;q=0.5", b"{'A': 1}", "text/x-upper"),
        ):
            response: Any = client.get(target, headers={"Accept": accept})
            assert response.content == body
            assert response.headers["Content-Type"].startswith(kind)
            assert response.headers["Vary"] == "Accept"
            assert response.headers["X-Own"] == "1"
            assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert len(runs) == 2
    hit: Any = client.get(target, headers={"Accept": "application/json"})
    assert status(hit) == "hit"
    assert hit.json() == hit.data == {"a": 1}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("by", ["session", "token"])
@pytest.mark.parametrize("per_user", [False, True])
@pytest.mark.parametrize("kind", PRIVATE)
@pytest.mark.matrix("by", "per_user", "kind")
def test_no_user_is_given_what_is_another_ones(
    kind: str, per_user: bool, by: str, order: tuple[int, int], site: Site, users: list[User]
) -> None:
    runs: list[str] = []
    cached = cache_stream(60, per_user=per_user)

    view = PRIVATE[kind](cached, runs)
    view.__name__ = "view"
    site(view)
    anonymous = Client().get("/view")
    assert kind == "function" or anonymous.status_code in (401, 403)
    runs.clear()
    for number in (*order, *order):
        client = Client()
        headers = {}
        if by == "session":
            client.force_login(users[number])
        else:
            token, _ = Token.objects.get_or_create(user=users[number])
            headers = {"Authorization": f"Token {token}"}
        response = client.get("/view", headers=headers)
        assert content(response) == b'[{"username":"%s"}]' % users[number].username.encode()
    # Where the decorator is outside the authentication, that reads what names the user.
    is_keyed = per_user and kind != "function"
    assert len(runs) == (2 if is_keyed else 4)


def test_throttles_and_permissions_run_on_a_hit(site: Site, users: list[User]) -> None:
    asked: list[int] = []

    class Throttle(SimpleRateThrottle):
        rate = "2/min"

        def get_cache_key(self, request: Any, view: Any) -> str:
            asked.append(1)
            return "key"

    class Own(APIView):
        throttle_classes = (Throttle,)
        renderer_classes = (JSONRenderer,)

        @cache_stream(60)
        def get(self, request: Any) -> Response:
            return Response(1)

    client = site(Own.as_view(), middleware=())
    assert [client.get("/view").status_code for _ in range(3)] == [200, 200, 429]
    assert len(asked) == 3


def test_an_action_that_streams(site: Site) -> None:
    runs: list[int] = []

    class Set(viewsets.ViewSet):
        @action(detail=False)
        @cache_stream(60)
        def export(self, request: Any) -> StreamingHttpResponse:
            runs.append(1)
            return StreamingHttpResponse(iter(["a,", "b"]), content_type="text/csv")

    view: Any = Set.as_view({"get": "export"})
    view.__name__ = "view"
    client = site(view, middleware=())
    for from_cache in (False, True):
        response: Any = client.get("/view")
        assert isinstance(response, CachedStreamingHttpResponse)
        assert response.from_cache == from_cache
        assert content(response) == b"a,b"
        response.close()
    assert len(runs) == 1


def test_pages_of_a_list_and_the_browsable_ones(site: Site, users: list[User]) -> None:
    class Pages(pagination.PageNumberPagination):
        page_size = 1

    class Names(generics.ListAPIView):
        queryset = User.objects.order_by("pk")
        serializer_class = Users
        pagination_class = Pages

        @cache_stream(60)
        def get(self, request: Any, *args: Any, **kwargs: Any) -> Response:
            return super().get(request, *args, **kwargs)

    view: Any = Names.as_view()
    view.__name__ = "view"
    client = site(view, middleware=())
    seen = []
    for target in ("/view", "/view?page=2", "/view"):
        response: Any = client.get(target, headers={"Accept": "application/json"})
        seen.append((response.json()["results"][0]["username"], status(response)))
    first, second = (each.username for each in users)
    assert seen == [(first, "fwd=uri-miss"), (second, "fwd=uri-miss"), (first, "hit")]
    # A page for people shows who they are, and has a token for its forms.
    for _ in range(2):
        page: Any = client.get("/view", headers={"Accept": "text/html"})
        assert b"<html" in page.content
        assert status(page) != "hit"


def test_a_page_for_people_shows_the_headers_of_its_response(site: Site) -> None:
    """REST Framework adds them once the method has returned, and renders the page after that."""

    def asked(decorator: Any) -> tuple[bytes, dict[str, str]]:
        class Names(APIView):
            @decorator
            def get(self, request: Any) -> Response:
                return Response(["ada"], headers={"Vary": "Origin"})

        view: Any = Names.as_view()
        view.__name__ = "view"
        client = site(view, middleware=())
        page: Any = client.get("/view", headers={"Accept": "text/html"})
        headers = {**page.headers}
        headers.pop("Cache-Status", "")
        headers.pop("Content-Length", "")
        # Each page has a token of its own.
        return re.sub(rb"\b\w{64}\b", b"", page.content), headers

    plain = asked(lambda method: method)
    assert b"Allow:" in plain[0]
    assert asked(cache_stream(60)) == plain
