"""Calls at once what threads would: a clock of a test's own knows of no threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from unittest import mock

from stream_cached.bodies import threads


class _AtOnce:
    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function())
        except BaseException as exc:
            future.set_exception(exc)
        return future


def without_threads() -> Any:
    """Return a patch, as a context manager."""
    return mock.patch.object(threads, "_pool", (os.getpid(), _AtOnce()))
