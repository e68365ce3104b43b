# mypy: disable-error-code="misc,untyped-decorator"
"""What is set on a view before its method is called: by `setup`, `initial` and `as_view()`."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView

from stream_cached.django import cache_stream
from tests.django.conftest import Site


class Tenant:
    """Something that no key can hold."""

    def __init__(self, name: str) -> None:
        self.name = name


def asked(target: str = "/view") -> list[bytes]:
    """The answers to two tenants, twice."""
    tenants = ("a", "b", "a", "b")
    responses: list[Any] = [Client().get(target, headers={"X-Tenant": each}) for each in tenants]
    return [each.content for each in responses]


@pytest.mark.parametrize("by", ["decorator", "method_decorator"])
@pytest.mark.parametrize(
    ("is_text", "options", "expected"),
    [
        (True, {}, 2),
        (False, {}, 4),
        (False, {"key_args": {"self": lambda view: view.tenant.name}}, 2),
    ],
)
def test_what_setup_has_set(
    by: str,
    is_text: bool,
    options: Any,
    expected: int,
    site: Site,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs: list[int] = []
    cached = cache_stream(60, **options)

    class Own(View):
        tenant: Any

        def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
            super().setup(request, *args, **kwargs)
            name = request.headers["X-Tenant"]
            self.tenant = name if is_text else Tenant(name)

        @(cached if by == "decorator" else method_decorator(cached))
        def get(self, request: HttpRequest) -> HttpResponse:
            runs.append(1)
            return HttpResponse(self.tenant if is_text else self.tenant.name)

    view: Any = Own.as_view()
    view.__name__ = "view"
    site(view, middleware=())
    assert asked() == [b"a", b"b", b"a", b"b"]
    assert len(runs) == expected
    messages = [record.getMessage() for record in caplog.records]
    assert [("self.tenant" in each, 'key_args={"self"' in each) for each in messages] == (
        [(True, True)] if expected == 4 else []
    )


def test_what_the_initial_method_of_rest_framework_has_set(site: Site) -> None:
    runs: list[int] = []

    class Own(APIView):
        permission_classes = ()
        renderer_classes = (JSONRenderer,)

        def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
            super().initial(request, *args, **kwargs)
            self.tenant = request.headers["X-Tenant"]

        @cache_stream(60)
        def get(self, request: Any) -> Response:
            runs.append(1)
            return Response(self.tenant)

    view: Any = Own.as_view()
    view.__name__ = "view"
    site(view, middleware=())
    assert asked() == [b'"a"', b'"b"', b'"a"', b'"b"']
    assert len(runs) == 2


def test_what_the_route_says(site: Site) -> None:
    runs: list[str] = []

    class Own(View):
        title = ""
        form_class: Any = None
        tenant: Any = None

        @cache_stream(60)
        def get(self, request: HttpRequest) -> HttpResponse:
            runs.append(self.title)
            return HttpResponse(self.title)

    site()
    for title in ("a", "b", "a", "b"):
        view: Any = Own.as_view(title=title, form_class=Tenant)
        assert view(RequestFactory().get("/one")).content == title.encode()
    assert runs == ["a", "b"]
    # The same for all requests of the route, even if no key can hold it.
    view = Own.as_view(tenant=Tenant("a"))
    view.__name__ = "view"
    client = site(view, middleware=())
    runs.clear()
    for _ in range(2):
        client.get("/view")
    assert len(runs) == 1
