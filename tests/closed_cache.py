"""A cache of cashews whose connections are closed in the loop that they belong to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cashews
import pytest

from tests.app_server import AppServer


class Cache(cashews.Cache):
    """One that is closed when the next app has stopped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        AppServer.closers.append(self.close)


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
