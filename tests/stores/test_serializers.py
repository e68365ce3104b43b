"""Plain values that are compressed, and bytes beside JSON."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiocache import cached as aiocache_cached
from aiocache import caches
from aiocache.serializers import JsonSerializer, NullSerializer, PickleSerializer, StringSerializer

from stream_cached import CompressionSerializer, ConfigurationError, stream_cached
from stream_cached.stores.serializers import JsonOrBytesSerializer
from tests.support.logs import warnings


@dataclass
class Frame:
    """Stands for a DataFrame: large, and equal to no other instance by identity."""

    rows: list[list[float]]


FRAME = Frame([[float(row), row / 7] for row in range(2000)])


@pytest.mark.parametrize(
    ("serializer", "value"),
    [
        (JsonSerializer(), {"rows": ["ä" * 1000]}),
        (JsonSerializer, [1, 2.5, None, "x" * 1000]),
        ("aiocache.serializers.JsonSerializer", {}),
        (StringSerializer(encoding="utf-16"), "text ä" * 100),
        (PickleSerializer, FRAME),
        (JsonOrBytesSerializer, b"\x00\xff" * 500),
    ],
)
def test_a_value_comes_back(serializer: Any, value: Any) -> None:
    compressing = CompressionSerializer(serializer)
    dumped = compressing.dumps(value)
    assert isinstance(dumped, bytes)
    assert compressing.loads(dumped) == value
    assert compressing.loads(None) is None


def test_a_value_takes_less_room_and_a_level_decides_how_much() -> None:
    sizes = [len(CompressionSerializer(level=level).dumps(FRAME)) for level in (0, 1, 9)]
    assert sizes[0] > len(pickle.dumps(FRAME)) > 2 * sizes[1] > sizes[2]


def test_what_is_too_large_is_neither_written_nor_decompressed() -> None:
    small = CompressionSerializer(JsonSerializer(), max_size=100)
    assert small.loads(small.dumps("x" * 98)) == "x" * 98
    with pytest.raises(ValueError, match="max_size=100"):
        small.dumps("x" * 99)
    # A bomb: a gigabyte of zeros in a megabyte.
    inflated = zlib.compressobj()
    bomb = b"".join(inflated.compress(bytes(2**20)) for _ in range(64)) + inflated.flush()
    with pytest.raises(ValueError, match="more than 100 bytes"):
        small.loads(b"B" + bomb)


@pytest.mark.parametrize(
    "damage",
    [
        lambda dumped: b"",
        lambda dumped: dumped[:1],
        lambda dumped: dumped[:-3],
        lambda dumped: b"X" + dumped[1:],
        lambda dumped: dumped[:5] + bytes(3) + dumped[8:],
        lambda dumped: b"plain",
        lambda dumped: b'{"rows": 1}',
    ],
)
def test_damaged_bytes_are_refused(damage: Callable[[bytes], bytes]) -> None:
    serializer = CompressionSerializer(JsonSerializer())
    with pytest.raises(ValueError, match=r"damaged|ends too early|no bytes of"):
        serializer.loads(damage(serializer.dumps({"rows": list(range(100))})))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"level": 10}, ["level=10"]),
        ({"level": "high"}, ["level='high'"]),
        ({"max_size": "much"}, ["max_size='much'"]),
        ({"serializer": "nonsense"}, ["'nonsense'", "can be imported"]),
        ({"serializer": "aiocache.serializers.Nonsense"}, ["can be imported"]),
        ({"serializer": 5}, ["no dumps()"]),
        ({"serializer": JsonSerializer(), "encoding": "utf-8"}, ["'encoding'", "instance"]),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CompressionSerializer(**settings)
    assert all(word in str(refused.value) for word in words), refused.value


def test_a_serializer_of_objects_can_not_be_compressed() -> None:
    with pytest.raises(TypeError, match="returns a list"):
        CompressionSerializer(NullSerializer()).dumps([1])


@pytest.mark.parametrize("cache_url", ["memory", "redis", "memcached"], indirect=True)
def test_a_frame_goes_through_every_store(cache_url: str) -> None:
    numbers = itertools.count()

    @stream_cached(ttl=60, cache=cache_url, serializer=CompressionSerializer())
    async def frame(name: str) -> tuple[int, Frame]:
        return next(numbers), FRAME

    async def test() -> None:
        first = await frame("a")
        second = await frame("a")
        assert first == second == (0, FRAME)
        assert second[1] is not FRAME

    asyncio.run(test())


@pytest.mark.parametrize("decorate", [stream_cached, aiocache_cached])
def test_it_is_named_in_a_configuration(decorate: Any, redis_url: str, namespace: str) -> None:
    host, _, port = redis_url.removeprefix("redis://").partition("/")[0].partition(":")
    alias = f"compressed-{namespace}"
    caches.add(
        alias,
        {
            "cache": "aiocache.RedisCache",
            "endpoint": host,
            "port": int(port),
            "namespace": namespace,
            "serializer": {
                "class": "stream_cached.CompressionSerializer",
                "serializer": "aiocache.serializers.PickleSerializer",
                "level": 9,
            },
        },
    )
    numbers = itertools.count()

    @decorate(ttl=60, alias=alias)  # type: ignore[untyped-decorator]
    async def frame() -> Any:
        return next(numbers), FRAME

    async def test() -> None:
        assert await frame() == await frame() == (0, FRAME)
        await caches.get(alias).close()

    asyncio.run(test())


# -- bytes beside JSON ----------------------------------------------------------------------------

VALUES = [b"", b"\x00\xff", bytearray(b"a"), "bytes:text", "", {"a": [1, None]}, 7, 1.5, True]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_bytes_and_json_come_back(value: Any) -> None:
    serializer = JsonOrBytesSerializer()
    assert serializer.loads(serializer.dumps(value)) == value
    if not isinstance(value, bytes | bytearray):
        assert serializer.dumps(value) == JsonSerializer().dumps(value)
    assert serializer.loads(None) is None


@pytest.mark.parametrize("cache_url", ["redis", "memcached"], indirect=True)
def test_a_server_stores_bytes_as_well_as_text_and_json(
    cache_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = itertools.count()

    @stream_cached(ttl=60, cache=cache_url)
    async def value(kind: str) -> Any:
        next(numbers)
        return {"bytes": b"\x00\xff" * 100, "text": "ä", "json": {"rows": [1, 2]}}[kind]

    async def test() -> None:
        for kind in ("bytes", "text", "json"):
            assert await value(kind) == await value(kind)

    asyncio.run(test())
    assert next(numbers) == 3
    assert warnings(caplog) == []
