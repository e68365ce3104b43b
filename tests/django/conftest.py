"""Sites of Django in this process, each with views and a cache of its own."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.django import project

from django.core.management import call_command  # isort: skip  (Django is configured now)
from django.db import connection  # isort: skip
from django.test import Client, override_settings  # isort: skip
from django.test.utils import setup_test_environment, teardown_test_environment  # isort: skip
from django.urls import path  # isort: skip

from tests.support.file_gates import FileGates  # isort: skip

_numbers = itertools.count(1)


class Site(Protocol):
    def __call__(
        self,
        *views: Callable[..., Any],
        middleware: Sequence[str] | None = None,
        url: str = "",
        **settings: Any,
    ) -> Client: ...


@pytest.fixture(scope="session", autouse=True)
def _environment() -> Iterator[None]:
    setup_test_environment(debug=False)
    yield
    teardown_test_environment()


@pytest.fixture(scope="session")
def database() -> None:
    """The tables, in the memory of this process."""
    name = connection.creation.create_test_db(verbosity=0)
    assert name
    call_command("check")


@pytest.fixture
def cache_address() -> str:
    """The address of an empty memory."""
    return f"memory://?max_bytes={(64 << 20) + next(_numbers)}&namespace=django"


@pytest.fixture
def gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileGates:
    """The gates and notes of the project's own views."""
    monkeypatch.setenv("APP_DIRECTORY", str(tmp_path))
    return FileGates(tmp_path)


@pytest.fixture
def site(cache_address: str) -> Iterator[Site]:
    """Serve views, each at its name: `site(view).get("/view")`."""
    with ExitStack() as stack:

        def serve(
            *views: Callable[..., Any],
            middleware: Sequence[str] | None = None,
            url: str = "",
            **settings: Any,
        ) -> Client:
            urls: Any = types.ModuleType("urls")
            urls.urlpatterns = []
            for view in views:
                name = getattr(view, "__name__", "view")
                urls.urlpatterns += [path(name, view), path(f"{name}/<int:number>", view)]
            changed = {
                "ROOT_URLCONF": urls,
                "MIDDLEWARE": project.MIDDLEWARE if middleware is None else list(middleware),
                "STREAM_CACHED": {"default": {"URL": url or cache_address, "TTL": 60}},
                **settings,
            }
            stack.enter_context(override_settings(**changed))
            return Client()

        yield serve
