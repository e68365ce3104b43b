"""A cache of cashews whose connections are closed in the loop that they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cashews
import pytest
from cashews.backends.interface import Backend

from tests.support.app_server import AppServer


class Cache(cashews.Cache):
    """One that is closed when the app has stopped that has used it first."""

    def _add_backend(self, backend: Backend, *args: Any, **kwargs: Any) -> None:
        super()._add_backend(backend, *args, **kwargs)
        init = backend.init

        async def init_and_close_later() -> None:
            await init()  # type: ignore[no-untyped-call]
            AppServer.closers.get(asyncio.get_running_loop(), []).append(backend.close)

        backend.init = init_and_close_later  # type: ignore[method-assign]


Setup = Callable[..., Cache]


def setup_of(kind: str, request: pytest.FixtureRequest, directory: Path) -> Setup:
    """Return what returns a cache of a kind that is set up, with more options perhaps."""
    options: dict[str, Any] = {}
    if kind == "mem":
        url = "mem://"
    elif kind == "disk":
        url, options = f"disk://?directory={directory}", {"shards": 1}
    else:
        url = request.getfixturevalue("redis_url")
        options = {"suppress": kind != "redis that raises", "client_side": "client" in kind}

    def set_up(**more: Any) -> Cache:
        cache = Cache()
        cache.setup(url, **options, **more)
        return cache

    return set_up
