"""What is cached of the shop, and what is not."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from app import Orders, app, streams
from fastapi.testclient import TestClient

from stream_cached import NotCached
from stream_cached.testing import CacheUnderTest

EXPORT = "/orders/2024.csv"


def test_an_export_runs_once(
    client: TestClient, orders: Orders, stream_cache: CacheUnderTest
) -> None:
    first, second = client.get(EXPORT), client.get(EXPORT)
    stream_cache.assert_miss(first)
    stream_cache.assert_stored(first)
    stream_cache.assert_hit(second)
    assert first.text == second.text == "Ada,1\nGrace,2\n"
    assert orders.runs == 1


def test_no_test_is_given_what_another_one_has_stored(
    client: TestClient, orders: Orders, stream_cache: CacheUnderTest
) -> None:
    orders.by_year[2024] = ["Barbara,7"]
    found = client.get(EXPORT)
    stream_cache.assert_miss(found)
    assert found.text == "Barbara,7\n"


def test_each_year_and_each_query_has_an_export_of_its_own(
    client: TestClient, stream_cache: CacheUnderTest
) -> None:
    for path in (EXPORT, "/orders/2025.csv", f"{EXPORT}?columns=name"):
        stream_cache.assert_miss(client.get(path))


def test_an_export_is_fresh_for_ten_minutes(
    client: TestClient, stream_cache: CacheUnderTest
) -> None:
    client.get(EXPORT)
    stream_cache.travel(599)
    stream_cache.assert_hit(client.get(EXPORT))
    stream_cache.travel(100)
    stream_cache.assert_miss(client.get(EXPORT))


def test_an_old_export_is_sent_while_a_new_one_is_made(
    client: TestClient, orders: Orders, stream_cache: CacheUnderTest
) -> None:
    client.get(EXPORT)
    orders.by_year[2024].append("Barbara,7")
    stream_cache.travel(630)
    assert client.get(EXPORT).text == "Ada,1\nGrace,2\n"
    stream_cache.block_until_idle()
    assert client.get(EXPORT).text == "Ada,1\nGrace,2\nBarbara,7\n"


def test_an_order_invalidates_the_export_of_its_year(
    client: TestClient, stream_cache: CacheUnderTest
) -> None:
    client.get(EXPORT)
    client.get("/orders/2025.csv")
    client.post("/orders/2024", params={"row": "Barbara,7"})
    assert client.get(EXPORT).text.endswith("Barbara,7\n")
    stream_cache.assert_hit(client.get("/orders/2025.csv"))


def test_each_user_has_an_entry(client: TestClient, stream_cache: CacheUnderTest) -> None:
    for name in ("ada", "grace"):
        headers = {"Authorization": f"Basic {name}"}
        stream_cache.assert_miss(client.get("/me", headers=headers))
        found = client.get("/me", headers=headers)
        stream_cache.assert_hit(found)
        assert found.json() == {"name": name}


def test_a_cookie_is_for_one_client(client: TestClient, stream_cache: CacheUnderTest) -> None:
    for _ in range(2):
        stream_cache.assert_not_stored(client.get("/login"), NotCached.SET_COOKIE)


def test_the_shop_works_without_a_cache(
    client: TestClient, orders: Orders, stream_cache: CacheUnderTest
) -> None:
    with stream_cache.disabled():
        assert {client.get(EXPORT).text for _ in range(3)} == {"Ada,1\nGrace,2\n"}
    assert orders.runs == 3


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_requests_at_once_are_one_run(
    orders: Orders, stream_cache: CacheUnderTest, anyio_backend: str
) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        answers = await asyncio.gather(*(client.get(EXPORT) for _ in range(5)))
    await stream_cache.wait_idle()
    assert {answer.text for answer in answers} == {"Ada,1\nGrace,2\n"}
    assert orders.runs == 1
    (stats,) = [each for name, each in streams.stats().items() if name.endswith("export")]
    assert (stats.misses, stats.joined + stats.hits) == (1, 4)
