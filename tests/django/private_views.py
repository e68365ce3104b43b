# mypy: disable-error-code="misc,untyped-decorator"
"""Views of Django REST Framework that answer each user with its own name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.contrib.auth.models import User
from django.http import StreamingHttpResponse
from rest_framework import generics, serializers, viewsets
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.decorators import api_view
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView


class Users(serializers.ModelSerializer):
    class Meta:
        model = User
        fields = ("username",)


class Private:
    authentication_classes = (SessionAuthentication, TokenAuthentication)
    permission_classes = (IsAuthenticated,)
    renderer_classes = (JSONRenderer,)


def plain(cached: Any, runs: list[str]) -> Any:
    class View(Private, APIView):
        @cached
        def get(self, request: Any) -> Response:
            runs.append("")
            return Response([{"username": request.user.username}])

    return View.as_view()


def streams(cached: Any, runs: list[str]) -> Any:
    class Streams(Private, APIView):
        @cached
        def get(self, request: Any) -> StreamingHttpResponse:
            def items() -> Iterator[str]:
                runs.append("")
                yield f'[{{"username":"{self.request.user.username}"}}]'

            return StreamingHttpResponse(items())

    return Streams.as_view()


def generic(cached: Any, runs: list[str]) -> Any:
    class Generic(Private, generics.ListAPIView):
        serializer_class = Users

        def get_queryset(self) -> Any:
            runs.append("")
            return User.objects.filter(pk=self.request.user.pk)

        @cached
        def get(self, request: Any, *args: Any, **kwargs: Any) -> Response:
            return super().get(request, *args, **kwargs)

    return Generic.as_view()


def viewset(cached: Any, runs: list[str]) -> Any:
    class Set(Private, viewsets.ReadOnlyModelViewSet):
        serializer_class = Users

        def get_queryset(self) -> Any:
            runs.append("")
            return User.objects.filter(username=self.request._request.user.username)

        @cached
        def list(self, request: Any, *args: Any, **kwargs: Any) -> Response:
            return super().list(request, *args, **kwargs)

    return Set.as_view({"get": "list"})


def function(cached: Any, runs: list[str]) -> Any:
    @api_view(["GET"])
    def inner(request: Any) -> Response:
        runs.append("")
        return Response([{"username": request.user.username}])

    inner.cls.authentication_classes = Private.authentication_classes
    inner.cls.renderer_classes = Private.renderer_classes
    return cached(inner)


PRIVATE: dict[str, Callable[[Any, list[str]], Any]] = {
    "generic": generic,
    "viewset": viewset,
    "view": plain,
    "function": function,
    "stream": streams,
}
