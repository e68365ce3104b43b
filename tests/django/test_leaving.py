"""A client that leaves while the view runs, under ASGI."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory
from django.views.decorators.csrf import csrf_exempt

from stream_cached.django import cache_stream
from tests.django.conftest import Site
from tests.support.gates import Gate, run

_communicator: Any = ApplicationCommunicator


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_what_cannot_be_interrupted_reads_its_body(site: Site, is_wrapped: bool) -> None:
    begun, gate, read = threading.Event(), Gate(), list[object]()

    def work(request: HttpRequest) -> HttpResponse:
        begun.set()
        gate.wait()
        try:
            read.append(request.body)
        except ValueError as exc:
            read.append(exc)
        return HttpResponse()

    async def around(request: HttpRequest) -> HttpResponse:
        return await sync_to_async(work)(request)

    inner: Any = sync_to_async(work) if is_wrapped else around
    view = csrf_exempt(cache_stream(60)(inner))
    view.__name__ = "view"
    site(view, middleware=())

    async def test() -> None:
        factory: Any = AsyncRequestFactory()
        scope = factory._base_scope(method="POST", path="/view")
        communicator: Any = _communicator(get_asgi_application(), scope)
        await communicator.send_input({"type": "http.request", "body": b"data"})
        await asyncio.to_thread(begun.wait, 10)
        await communicator.send_input({"type": "http.disconnect"})
        # Time for Django to close the body, if it did not wait.
        await asyncio.sleep(0.1)
        gate.open()
        await communicator.wait(10)

    run(test)
    assert read == [b"data"]
