# mypy: disable-error-code="misc,no-untyped-def,no-untyped-call,untyped-decorator"
"""Users that are loaded at their first use, sessions, and middleware for some clients only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.utils.functional import SimpleLazyObject
from django.views import View

from stream_cached.django import cache_stream
from tests.django import project
from tests.django.conftest import Site
from tests.django.test_answers import status


@pytest.fixture
def names(database: None) -> Iterator[list[str]]:
    """Users in the database."""
    users = [User.objects.create_user(name) for name in ("ada", "grace")]
    yield [user.username for user in users]
    User.objects.all().delete()


def clients(names: list[str]) -> list[Client]:
    made = []
    for name in names:
        client = Client()
        client.force_login(User.objects.get(username=name))
        session = client.session
        session["cart"] = f"{name}'s"
        session.save()
        made.append(client)
    return made


def asked(names: list[str]) -> list[tuple[str, str]]:
    """The answers to each user, twice, and where they came from."""
    responses = [client.get("/view") for client in clients(names) * 2]
    return [(each.content.decode(), status(each)) for each in responses]


def by_user(request) -> object:
    return request.user.username


BY: dict[str, dict[str, Any]] = {
    "user": {"key_args": {"request": by_user}, "unguarded": ("user",)},
    "database": {
        "key_args": {"request": lambda request: User.objects.get(pk=request.user.pk).username},
        "unguarded": ("user",),
    },
    "session": {
        "key_args": {"request": lambda request: request.session["cart"]},
        "unguarded": ("user",),
    },
}


@pytest.mark.parametrize("by", BY)
def test_functions_of_the_key_may_use_the_database(by: str, names: list[str], site: Site) -> None:
    @cache_stream(60, **BY[by])
    def view(request):
        return HttpResponse(request.user.username)

    site(view)
    found = asked(names)
    assert [body for body, _ in found] == [*names, *names]
    assert [each for _, each in found] == ["fwd=uri-miss"] * 2 + ["hit"] * 2


@pytest.mark.parametrize(
    "options",
    [
        {"tags": lambda request: [f"users:{User.objects.count()}"]},
        {"tags": ("user:{request.user.pk}",)},
        {"refresh": lambda request: request.user.is_staff},
    ],
)
def test_other_functions_may_use_it_too(
    options: Any, names: list[str], site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    @cache_stream(60, **options)
    def view(request):
        return HttpResponse("a")

    site(view)
    assert [each for _, each in asked(names[:1])] == ["fwd=uri-miss", "hit"]
    assert not caplog.records


def holds_it(make: Callable[[Any], object]) -> Any:
    class Own(View):
        def setup(self, request, *args, **kwargs):
            super().setup(request, *args, **kwargs)
            self.owner = make(request.user)

        @cache_stream(60)
        def get(self, request):
            return HttpResponse(self.request.user.get_username())

    return Own.as_view()


def holds_it_by(make: Callable[[Any], object]) -> Any:
    def view(request):
        owner = make(request.user)

        @cache_stream(60)
        def inner(request):
            return HttpResponse(owner and request.user.username)

        return inner(request)

    return view


@pytest.mark.parametrize("holds", [holds_it, holds_it_by])
@pytest.mark.parametrize(
    "make", [lambda user: user, lambda user: [user], lambda user: {"a": [user]}]
)
def test_a_lazy_user_that_a_view_holds_is_its_own(
    holds: Any, make: Any, names: list[str], site: Site
) -> None:
    view = holds(make)
    view.__name__ = "view"
    site(view)
    assert [body for body, _ in asked(names)] == [*names, *names]


def test_nothing_is_made_to_look_at_it(site: Site) -> None:
    made: list[str] = []

    def make() -> str:
        made.append("made")
        return "a"

    lazy = SimpleLazyObject(make)

    def view(request):
        @cache_stream(60)
        def inner(request, unused=lazy):
            return HttpResponse("a")

        return inner(request)

    assert site(view).get("/view").content == b"a"
    assert not made


class SomeOnly:
    """Middleware that leaves users and sessions to those who ask for them."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request):
        if "X-Key" not in request.headers:
            del request.user, request.session, request._messages
        return self.get_response(request)


@pytest.mark.parametrize("name", ["user", "session", "_messages"])
def test_who_has_none_is_no_one_else(name: str, names: list[str], site: Site) -> None:
    @cache_stream(60)
    def view(request):
        return HttpResponse("yes" if hasattr(request, name) else "no")

    messages = "django.contrib.messages.middleware.MessageMiddleware"
    site(view, middleware=[*project.MIDDLEWARE, messages, f"{__name__}.SomeOnly"])
    found = [Client().get("/view", headers=each) for each in ({}, {"X-Key": "1"}, {})]
    assert [each.content for each in found] == [b"no", b"yes", b"no"]
    assert status(found[2]) == "hit"
