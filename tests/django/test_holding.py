# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Views that share a name and hold different values: closures, partials, instances."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
from django.http import HttpResponse, StreamingHttpResponse
from django.utils.decorators import method_decorator
from django.views import View

from stream_cached.django import cache_stream
from stream_cached.endpoint.value_forms import _firsts
from tests.django.asking import Make, answered, nobody_is_given_what_is_anothers, request_of
from tests.django.conftest import Site
from tests.django.test_answers import status


def closure_in_a_view(cached):
    def outer(request):
        name = request.user.username

        @cached
        def page(request):
            return HttpResponse(name)

        return page(request)

    return outer


def default_of_a_function_in_a_view(cached):
    def outer(request):
        @cached
        def page(request, name=request.user.username):
            return HttpResponse(name)

        return page(request)

    return outer


def list_that_the_view_changes(cached):
    def outer(request):
        names = [request.user.username]

        @cached
        def page(request):
            names.append("again")
            return HttpResponse(names[0])

        return page(request)

    return outer


def chosen(one, other):
    return lambda request: (one if request.user.is_staff else other)(request)


def partials(cached):
    def page(request, kind):
        return HttpResponse(kind)

    return chosen(*(cached(functools.partial(page, kind=kind)) for kind in "ab"))


def positional_partials(cached):
    def page(kind, request):
        return HttpResponse(kind)

    def outer(request):
        return cached(functools.partial(page, request.user.username))(request)

    return outer


def lambdas(cached):
    one, other = cached(lambda request: HttpResponse("a")), cached(lambda _: HttpResponse("b"))
    return chosen(one, other)


class Page:
    def __init__(self, kind):
        self.kind = kind

    def __call__(self, request):
        return HttpResponse(self.kind)


def instances(cached):
    return chosen(cached(Page("a")), cached(Page("b")))


def bound_methods(cached):
    return chosen(cached(Page("a").__call__), cached(Page("b").__call__))


def instances_that_hold_a_row(cached):
    return lambda request: cached(Page(request.user))(request)


def factory(cached):
    def made(kind):
        @cached
        def page(request):
            return StreamingHttpResponse(iter([kind]))

        return page

    return chosen(made("a"), made("b"))


def closure_over_a_row(cached):
    def outer(request):
        user = request.user

        @cached
        def page(request):
            return HttpResponse(user.username)

        return page(request)

    return outer


def inner_functions_over_a_row(cached):
    def outer(request):
        user = request.user

        def name():
            return user.username

        @cached
        def page(request):
            return HttpResponse(name())

        return page(request)

    return outer


def inner_functions(cached):
    def outer(request):
        def name(who=request.user.username):
            return who

        @cached
        def page(request):
            return HttpResponse(name())

        return page(request)

    return outer


def method_of_a_plain_object(cached):
    class Reports:
        def __init__(self, user):
            self.user = user

        @cached
        def page(self, request):
            return HttpResponse(self.user)

    return lambda request: Reports(request.user.username).page(request)


def method_of_an_object_with_a_row(cached):
    class Reports:
        def __init__(self, user):
            self.user = user

        @cached
        def page(self, request):
            return HttpResponse(self.user.username)

    return lambda request: Reports(request.user).page(request)


def class_in_a_view(cached):
    def outer(request):
        name = request.user.username

        class Own(View):
            @cached
            def get(self, request):
                return HttpResponse(self.title())

            def title(self):
                return name

        return Own.as_view()(request)

    return outer


def attribute_of_a_class(cached):
    def outer(request):
        class Own(View):
            title = request.user.username

            @cached
            def get(self, request):
                return HttpResponse(self.title)

        return Own.as_view()(request)

    return outer


def another_request(cached):
    def outer(request):
        @cached
        def page(_):
            return HttpResponse(request.user.username)

        return page(request_of("ada"))

    return outer


KINDS: dict[str, Make] = {
    made.__name__: made
    for made in (
        *(closure_in_a_view, closure_over_a_row, inner_functions_over_a_row),
        *(default_of_a_function_in_a_view, list_that_the_view_changes),
        *(partials, positional_partials, lambdas, instances, bound_methods),
        *(instances_that_hold_a_row, factory, inner_functions, method_of_a_plain_object),
        *(method_of_an_object_with_a_row, class_in_a_view, attribute_of_a_class, another_request),
    )
}


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_is_given_what_is_anothers(kind: str, site: Site) -> None:
    site()
    nobody_is_given_what_is_anothers(KINDS[kind], cache_stream(60))


def test_views_that_hold_the_same_share_their_entries(site: Site) -> None:
    def made(kind: str) -> Any:
        return lambda request: HttpResponse(kind)

    site()
    found = [cache_stream(60)(made(kind))(request_of("ada")) for kind in ("a", "b", "a", "b")]
    assert [each.content for each in found] == [b"a", b"b", b"a", b"b"]
    assert [status(each) for each in found] == ["fwd=uri-miss"] * 2 + ["hit"] * 2


def test_a_view_of_the_route_may_hold_anything(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    service, runs = SimpleNamespace(rows=object()), list[int]()

    @cache_stream(60)
    def view(request):
        runs.append(1)
        return HttpResponse(str(service))

    client = site(view, middleware=())
    assert client.get("/view").content == client.get("/view").content
    assert len(runs) == 1
    assert not caplog.records
    # Without its route, it may be another one for each user.
    for number in (2, 3):
        answered(view, request_of("ada"))
        assert len(runs) == number
    (record,) = caplog.records
    assert "(service)" in record.getMessage()


def test_nothing_is_registered_for_each_request(site: Site) -> None:
    runs: list[int] = []

    class Own(View):
        @method_decorator(cache_stream(60))
        def get(self, request):
            runs.append(1)
            return HttpResponse("a")

    view: Any = Own.as_view()
    view.__name__ = "view"
    client = site(view, middleware=())
    client.get("/view")
    # The functions of other tests may be collected meanwhile: only new ones count.
    before = set(_firsts)
    for _ in range(5):
        client.get("/view")
    assert len(runs) == 1
    assert set(_firsts) <= before
