# mypy: disable-error-code="misc,no-untyped-def,no-untyped-call,type-arg,untyped-decorator"
"""Ordinary views keep their hits, and nothing is warned of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import User
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import Client
from django.urls import get_urlconf, path, resolve
from django.utils import timezone, translation
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET
from django.views.generic import ListView, TemplateView
from rest_framework import generics, pagination, serializers, versioning, viewsets
from rest_framework.decorators import action, api_view
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.reverse import reverse

from stream_cached.django import cache_stream
from tests.django import project
from tests.django.conftest import Site
from tests.django.private_views import Users
from tests.django.test_answers import content, status

cached = cache_stream(60)


@cached
def function(request):
    return HttpResponse("a")


@csrf_exempt
@cached
@require_GET
def decorated(request):
    return HttpResponse("a")


@cached
def asks_for_its_method(request):
    return HttpResponse("b" if request.method == "POST" else "a")


@cached
def site_and_language(request):
    zone = timezone.get_current_timezone_name()
    return HttpResponse(f"{request.site.domain} {request.LANGUAGE_CODE} {zone}")


@cached
def its_own_urls(request):
    match = request.resolver_match
    here = resolve(request.path_info, get_urlconf(None)).route
    return JsonResponse(
        [match.route, match.url_name, here, request.path, request.scheme], safe=False
    )


@cached
def absolute_urls(request):
    query = request.GET.urlencode()
    return HttpResponse(f"{request.build_absolute_uri('?page=2')} {request.get_host()} {query}")


@cached
def page_of_a_template(request):
    text = "{% load i18n %}{% trans 'Yes' %} {{ request.path }} {% if perms %}{% endif %}"
    return HttpResponse(engines["django"].from_string(text).render({}, request))


@cached
def template_response(request):
    return TemplateResponse(request, engines["django"].from_string("{{ request.path }}"))


@cached
def stream(request):
    def rows() -> Iterator[str]:
        yield request.path
        yield translation.get_language()

    return StreamingHttpResponse(rows())


@cached
async def asynchronous(request):
    return HttpResponse("a")


class Simple(View):
    title = ""

    @cached
    def get(self, request, *args, **kwargs):
        return HttpResponse(self.title + self.request.path)


@method_decorator(cached, name="dispatch")
class Dispatched(View):
    def get(self, request, *args, **kwargs):
        return HttpResponse("a")


class Listed(ListView):
    queryset = User.objects.order_by("pk")
    paginate_by = 2

    @cached
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def render_to_response(self, context, **kwargs):
        return HttpResponse(str(context["page_obj"]))


class Templated(TemplateView):
    @cached
    def get(self, request, *args, **kwargs):
        assert self.get_context_data(**kwargs)
        return HttpResponse("a")


class Page:
    def __init__(self, title: str) -> None:
        self.title = title

    def __call__(self, request):
        return HttpResponse(self.title)

    @cached
    def method(self, request):
        return HttpResponse(self.title)


class Admin:
    """A view that holds what no key can hold, as a ModelAdmin does."""

    def __init__(self) -> None:
        self.opts = User._meta

    @cached
    def changes(self, request):
        return HttpResponse(str(self.opts))

    def wrapped(self) -> Callable[..., Any]:
        view = self.changes

        def wrapper(*args, **kwargs):
            return view(*args, **kwargs)

        return functools.update_wrapper(wrapper, view)


def made(title: str, service: object) -> Any:
    @cached
    def page(request):
        return HttpResponse(f"{title} {service is None}")

    return page


def made_class() -> Any:
    class Own(ListView):
        queryset = User.objects.order_by("-pk")

        @cached
        def get(self, request, *args, **kwargs):
            return HttpResponse(str(super().get_queryset().count()))

    return Own.as_view()


class Pages(pagination.PageNumberPagination):
    page_size = 1


class Names(generics.ListAPIView):
    queryset = User.objects.order_by("pk")
    serializer_class = Users
    pagination_class = Pages
    renderer_classes = (JSONRenderer,)

    @cached
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)


class Linked(serializers.ModelSerializer):
    url = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = ("username", "url")

    def get_url(self, user: Any) -> str:
        return str(reverse("view", request=self.context["request"]))


class Set(viewsets.ReadOnlyModelViewSet):
    queryset = User.objects.order_by("pk")
    serializer_class = Linked
    renderer_classes = (JSONRenderer,)
    versioning_class = versioning.QueryParameterVersioning

    @cached
    def list(self, request, *args, **kwargs):
        return super().list(request, *args, **kwargs)

    @action(detail=False, permission_classes=[])
    @cached
    def export(self, request):
        return StreamingHttpResponse(iter(["a", str(request.version)]))


@api_view(["GET"])
@cached
def below_api_view(request):
    return Response(
        {"a": request.query_params.get("a"), "format": request.accepted_renderer.format}
    )


VIEWS: dict[str, Any] = {
    **{
        each.__name__: each
        for each in (
            *(function, decorated, asks_for_its_method, site_and_language, its_own_urls),
            *(absolute_urls, page_of_a_template, template_response, stream, asynchronous),
        )
    },
    "below api_view": below_api_view,
    "class": Simple.as_view(title="a"),
    "dispatch": Dispatched.as_view(),
    "list": Listed.as_view(),
    "template": Templated.as_view(),
    "partial": cached(functools.partial(lambda request, title: HttpResponse(title), title="a")),
    "lambda": cached(lambda request: HttpResponse("a")),
    "instance": cached(Page("a")),
    "method": Page("a").method,
    "admin": Admin().wrapped(),
    "factory": made("a", object()),
    "class of a factory": made_class(),
    "login": login_not_required(made("a", object())),
    "generic": Names.as_view(),
    "viewset": Set.as_view({"get": "list"}),
    "action": Set.as_view({"get": "export"}, permission_classes=[], detail=False),
}


@pytest.mark.parametrize("name", VIEWS)
def test_who_hits(name: str, site: Site, database: None, caplog: pytest.LogCaptureFixture) -> None:
    middleware = [
        *project.MIDDLEWARE,
        "django.contrib.sites.middleware.CurrentSiteMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ]
    urls: Any = ModuleType("urls")
    urls.urlpatterns = [path("view", VIEWS[name], name="view")]
    site(middleware=middleware, ROOT_URLCONF=urls)
    found = []
    for _ in range(2):
        response: Any = Client().get("/view?a=1", headers={"Accept-Language": "de"})
        assert response.status_code == 200
        content(response)
        found.append(status(response))
    assert found == ["fwd=uri-miss", "hit"]
    assert not caplog.records
