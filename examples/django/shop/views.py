"""Orders of one year as a CSV file, row by row from the database."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator

from django.http import HttpRequest, StreamingHttpResponse
from rest_framework import viewsets
from rest_framework.decorators import action
from rest_framework.request import Request

from shop.models import Order
from stream_cached.django import cache_stream

#: Seconds that a slow database takes for a row.
PAUSE = float(os.environ.get("SHOP_PAUSE", "0"))


def line(order: Order) -> str:
    return f"{order.pk},{order.customer},{order.total}\n"


def rows(year: int) -> Iterator[str]:
    yield "id,customer,total\n"
    for order in Order.objects.filter(year=year).order_by("pk").iterator():
        time.sleep(PAUSE)
        yield line(order)


async def async_rows(year: int) -> AsyncIterator[str]:
    import asyncio

    yield "id,customer,total\n"
    async for order in Order.objects.filter(year=year).order_by("pk"):
        await asyncio.sleep(PAUSE)
        yield line(order)


class Orders(viewsets.ViewSet):
    """A viewset: what runs before `export` runs on a hit, too."""

    @action(detail=False)
    @cache_stream(tags=("orders:{year}",))
    def export(self, request: Request, year: int) -> StreamingHttpResponse:
        return StreamingHttpResponse(rows(year), content_type="text/csv")


@cache_stream(tags=("orders:{year}",))
async def export(request: HttpRequest, year: int) -> StreamingHttpResponse:
    return StreamingHttpResponse(async_rows(year), content_type="text/csv")


def uncached(request: HttpRequest, year: int) -> StreamingHttpResponse:
    return StreamingHttpResponse(rows(year), content_type="text/csv")


async def async_uncached(request: HttpRequest, year: int) -> StreamingHttpResponse:
    return StreamingHttpResponse(async_rows(year), content_type="text/csv")
