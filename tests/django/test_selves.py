# mypy: disable-error-code="misc,untyped-decorator"
"""What is set on a view before its method is called: by `setup`, `initial` and `as_view()`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.forms import modelform_factory
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework.permissions import AllowAny, IsAdminUser
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView

from stream_cached.django import cache_stream
from tests.django.asking import nobody_is_given_what_is_anothers, request_of
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


def local_class(name: str) -> type:
    class Fields:
        names = (name,)

    return Fields


def put(name: str, of: Callable[[Any], Any]) -> Callable[[Any, Any], None]:
    return lambda view, request: setattr(view, name, of(request.user.username))


def form_of(view: Any, request: Any) -> None:
    names = ["username", "is_superuser"] if request.user.is_staff else ["username"]
    view.form_class = modelform_factory(User, fields=names)


def another_request(view: Any, request: Any) -> None:
    view.request = SimpleNamespace(user=request.user)


#: What is set on a view before its method is called, and what the method answers.
SET: dict[str, tuple[Callable[[Any, Any], None], Callable[[Any], object]]] = {
    "headers": (put("headers", lambda who: {"X-Who": who}), lambda view: view.headers["X-Who"]),
    "response": (put("response", str), lambda view: view.response),
    "a local class": (put("fields", local_class), lambda view: view.fields.names),
    "a form": (form_of, lambda view: view.form_class()),
    "a closure": (put("get_name", lambda who: lambda: who), lambda view: view.get_name()),
    "a partial": (put("name", lambda who: functools.partial(str, who)), lambda view: view.name()),
    "a method of its own": (
        lambda view, request: setattr(
            view, "show", view.one if request.user.is_staff else view.other
        ),
        lambda view: view.show(),
    ),
    "another request": (another_request, lambda view: view.request.user.username),
    "arguments of another kind": (
        put("kwargs", lambda who: SimpleNamespace(who=who)),
        lambda view: view.kwargs.who,
    ),
    "equal arguments": (
        lambda view, request: setattr(view, "args", (1,) if request.user.is_staff else (True,)),
        lambda view: view.args,
    ),
    "a negotiator": (
        put("_negotiator", lambda who: SimpleNamespace(who=who)),
        lambda view: view._negotiator.who,
    ),
}


@pytest.mark.parametrize("name", SET)
def test_what_is_set_for_each_user(name: str, site: Site) -> None:
    prepare, show = SET[name]

    def make(cached: Any) -> Any:
        class Own(View):
            def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
                super().setup(request, *args, **kwargs)
                prepare(self, request)

            def one(self) -> str:
                return "one"

            def other(self) -> str:
                return "other"

            @cached
            def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
                return HttpResponse(str(show(self)))

        return lambda request: Own.as_view()(request, *([1] if name == "equal arguments" else []))

    site()
    nobody_is_given_what_is_anothers(make, cache_stream(60))


def test_what_rest_framework_sets_for_each_user(site: Site) -> None:
    def make(cached: Any) -> Any:
        class Own(APIView):
            authentication_classes = ()
            permission_classes: Any = ()
            renderer_classes = (JSONRenderer,)

            def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
                super().initial(request, *args, **kwargs)
                is_staff = request._request.user.is_staff
                self.permission_classes = [IsAdminUser if is_staff else AllowAny]
                self.headers["X-Own"] = str(is_staff)

            @cached
            def get(self, request: Any) -> Response:
                return Response([self.permission_classes[0].__name__, self.headers["X-Own"]])

        return Own.as_view()

    site()
    nobody_is_given_what_is_anothers(make, cache_stream(60), request_of)


def another_renderer(request: Any, who: str) -> None:
    class Own(JSONRenderer):
        title = who

    request.accepted_renderer = Own()


#: What is put on a request of REST Framework before the method is called.
OF_REQUEST: dict[str, tuple[Callable[[Any, str], None], Callable[[Any], object]]] = {
    "parsers": (
        lambda request, who: setattr(request, "parsers", [who]),
        lambda request: request.parsers,
    ),
    "a renderer": (another_renderer, lambda request: request.accepted_renderer.title),
    "a renderer with more": (
        lambda request, who: setattr(request.accepted_renderer, "title", who),
        lambda request: request.accepted_renderer.title,
    ),
    "a scheme": (
        lambda request, who: setattr(request, "versioning_scheme", who),
        lambda request: request.versioning_scheme,
    ),
    "a version": (
        lambda request, who: setattr(request, "version", who),
        lambda request: request.version,
    ),
    "a context": (
        lambda request, who: request.parser_context.update(who=who),
        lambda request: request.parser_context["who"],
    ),
    "other arguments in the context": (
        lambda request, who: request.parser_context.update(kwargs={"who": who}),
        lambda request: request.parser_context["kwargs"]["who"],
    ),
    "a kwarg of the context": (
        lambda request, who: request.parser_context["kwargs"].update(who=who),
        lambda request: request.parser_context["kwargs"]["who"],
    ),
}


@pytest.mark.parametrize("name", OF_REQUEST)
def test_what_is_put_on_a_request_of_rest_framework(name: str, site: Site) -> None:
    prepare, read = OF_REQUEST[name]

    def make(cached: Any) -> Any:
        class Own(APIView):
            authentication_classes = ()
            permission_classes = ()
            renderer_classes = (JSONRenderer,)

            def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
                super().initial(request, *args, **kwargs)
                prepare(request, request._request.user.username)

            @cached
            def get(self, request: Any, **kwargs: Any) -> Response:
                return Response(str(read(request)))

        return Own.as_view()

    site()
    nobody_is_given_what_is_anothers(make, cache_stream(60))
