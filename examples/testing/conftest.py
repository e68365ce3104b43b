"""What the tests of the shop have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from app import Orders, app, get_orders
from fastapi.testclient import TestClient

pytest_plugins = ["stream_cached.testing"]


@pytest.fixture
def orders() -> Iterator[Orders]:
    """Orders of this test alone."""
    orders = Orders()
    app.dependency_overrides[get_orders] = lambda: orders
    yield orders
    del app.dependency_overrides[get_orders]


@pytest.fixture
def client(orders: Orders) -> Iterator[TestClient]:
    """A client of the running application."""
    with TestClient(app) as client:
        yield client
