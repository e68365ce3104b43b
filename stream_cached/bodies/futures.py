"""What obstore has begun."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


def begun(call: Awaitable[T]) -> asyncio.Future[T]:
    """Return the future of a call into obstore. Its error is no complaint of the event loop."""
    future = asyncio.ensure_future(call)
    future.add_done_callback(_forget)
    return future


def _forget(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
