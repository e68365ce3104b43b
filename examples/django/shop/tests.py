"""The project's own tests: `python manage.py test`."""

from __future__ import annotations

from typing import Any

from django.test import TestCase

from shop.models import Order
from stream_cached.django import caches


class ExportTest(TestCase):
    def setUp(self) -> None:
        # Each test has rows of its own.
        caches["default"].clear()
        Order.objects.create(year=2024, customer="Ada", total=1)

    def body(self, target: str) -> str:
        response: Any = self.client.get(target)
        return b"".join(response.streaming_content).decode()

    def test_rows_are_cached_until_they_are_invalidated(self) -> None:
        first = self.body("/orders/2024.csv")
        assert "Ada" in first
        Order.objects.create(year=2024, customer="Grace", total=2)
        assert self.body("/orders/2024.csv") == first
        caches["default"].invalidate_tags("orders:2024")
        assert "Grace" in self.body("/orders/2024.csv")

    def test_a_year_has_an_entry_of_its_own(self) -> None:
        assert "Ada" in self.body("/orders/2024.csv")
        assert "Ada" not in self.body("/orders/2025.csv")
