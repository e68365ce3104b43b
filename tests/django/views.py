"""Views of the project. What their streams wait for, and what they note, are files."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse

from stream_cached.django import cache_stream
from tests.support.file_gates import FileGates


def gates() -> FileGates:
    """Where the gates and the notes are."""
    return FileGates(os.environ["APP_DIRECTORY"])


def note(name: str) -> None:
    gates().note(name)


def chunk(number: int) -> str:
    return f"row {number}\n"


def rows(name: str, count: int) -> Iterator[str]:
    """Yield rows, each one after the first once its gate is open."""
    note(f"{name}.runs")
    try:
        for number in range(count):
            if number:
                gates().wait(name, number)
            yield chunk(number)
        note(f"{name}.whole")
    finally:
        note(f"{name}.closed")


async def arows(name: str, count: int) -> AsyncIterator[str]:
    """The same, without a thread."""
    note(f"{name}.runs")
    try:
        for number in range(count):
            if number:
                await gates().passed(name, number)
            yield chunk(number)
        note(f"{name}.whole")
    finally:
        note(f"{name}.closed")


def plain_gated(request: HttpRequest, name: str, count: int) -> StreamingHttpResponse:
    return StreamingHttpResponse(rows(name, count), content_type="text/csv")


async def plain_agated(request: HttpRequest, name: str, count: int) -> StreamingHttpResponse:
    return StreamingHttpResponse(arows(name, count), content_type="text/csv")


gated = cache_stream(60)(plain_gated)
agated = cache_stream(60)(plain_agated)


@cache_stream(60)
def private(request: HttpRequest, name: str, count: int) -> StreamingHttpResponse:
    response = StreamingHttpResponse(rows(name, count), content_type="text/csv")
    response["Cache-Control"] = "private"
    return response


@cache_stream(60)
async def aprivate(request: HttpRequest, name: str, count: int) -> StreamingHttpResponse:
    response = StreamingHttpResponse(arows(name, count), content_type="text/csv")
    response["Cache-Control"] = "private"
    return response


@cache_stream(60)
def mixed(request: HttpRequest, name: str, count: int) -> StreamingHttpResponse:
    return StreamingHttpResponse(arows(name, count), content_type="text/csv")


@cache_stream(60)
async def amixed(request: HttpRequest, name: str, count: int) -> StreamingHttpResponse:
    return StreamingHttpResponse(rows(name, count), content_type="text/csv")


async def plain_fails(request: HttpRequest, name: str) -> StreamingHttpResponse:
    async def items() -> AsyncIterator[str]:
        note(f"{name}.runs")
        yield "begun\n"
        raise ValueError("half way")

    return StreamingHttpResponse(items(), content_type="text/csv")


fails = cache_stream(60)(plain_fails)


@cache_stream(60)
def small(request: HttpRequest, name: str) -> HttpResponse:
    note(f"{name}.runs")
    return HttpResponse(f"small {name}", content_type="text/plain")


@cache_stream(60)
def whoami(request: Any) -> JsonResponse:
    note("whoami.runs")
    return JsonResponse({"user": request.user.pk})
