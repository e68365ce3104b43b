"""Serializers of plain values: compressed ones, and JSON that takes bytes, too."""

from __future__ import annotations

import base64
import importlib
import zlib
from typing import Any

from aiocache.serializers import BaseSerializer, JsonSerializer, PickleSerializer

from stream_cached.checks import require, require_size
from stream_cached.errors import ConfigurationError
from stream_cached.format.coding import inflate

#: What stands before a compressed text, and before compressed bytes.
_TEXT, _BYTES = b"T", b"B"

#: What stands before bytes, which no JSON text begins with.
_PREFIX = "bytes:"


class CompressionSerializer(BaseSerializer):  # type: ignore[misc]
    """
    Compresses what another serializer makes of a value, by zlib (RFC 1950).

    It can be named in `caches.set_config`: `{"class": "stream_cached.CompressionSerializer",
    "serializer": "aiocache.serializers.JsonSerializer"}`.

    Args:
        serializer: The other serializer: an instance, a class, or the path of a class as text.
            aiocache's `PickleSerializer` without it, as for DataFrames. Like any pickle, it must
            only read what trusted programs have written.
        level: The level of compression, from 0 (none) to 9 (the smallest result); -1 is the default
            of zlib.
        max_size: Bytes that a value may have when it is read, or a text such as `"64MiB"`. A larger
            one is not decompressed, so that a damaged or forged value can't fill the memory.
        kwargs: Arguments of a serializer that is a class or a path.

    Raises:
        ConfigurationError: A parameter has no valid value; the message says what to write.
    """

    DEFAULT_ENCODING = None

    def __init__(
        self,
        serializer: Any = PickleSerializer,
        *,
        level: int = -1,
        max_size: int | str = "64MiB",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        require(
            isinstance(level, int) and -1 <= level <= 9,
            f"level={level!r}: pass a whole number from -1 to 9",
        )
        self._level = level
        self._max_size = require_size("max_size", max_size, least=1)
        self._inner = _resolved(serializer, kwargs)

    def dumps(self, value: Any) -> bytes:
        """Return a value as compressed bytes."""
        dumped = self._inner.dumps(value)
        if isinstance(dumped, str):
            kind, data = _TEXT, dumped.encode(self._inner.encoding or "utf-8")
        elif isinstance(dumped, bytes | bytearray | memoryview):
            kind, data = _BYTES, bytes(dumped)
        else:
            raise TypeError(
                f"{type(self._inner).__name__} returns a {type(dumped).__name__}, which can't be "
                "compressed: pass a serializer that returns str or bytes"
            )
        if len(data) > self._max_size:
            raise ValueError(f"the value has {len(data)} bytes: max_size={self._max_size}")
        return kind + zlib.compress(data, self._level)

    def loads(self, value: bytes | None) -> Any:
        """Return the value of compressed bytes; None for None. Raise ValueError for other bytes."""
        if value is None:
            return None
        kind, data = bytes(value[:1]), inflate(value[1:], self._max_size, error=ValueError)
        if kind == _TEXT:
            return self._inner.loads(data.decode(self._inner.encoding or "utf-8"))
        if kind == _BYTES:
            return self._inner.loads(data)
        raise ValueError("these are no bytes of a CompressionSerializer")


def _resolved(serializer: Any, kwargs: dict[str, Any]) -> Any:
    if isinstance(serializer, str):
        module, _, name = serializer.rpartition(".")
        try:
            serializer = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as exc:
            raise ConfigurationError(
                f"serializer={serializer!r} is no class that can be imported ({exc}): write "
                '"aiocache.serializers.JsonSerializer", for example'
            ) from exc
    if isinstance(serializer, type):
        serializer, kwargs = serializer(**kwargs), {}
    require(
        not kwargs,
        f"unknown parameter {next(iter(kwargs), '')!r}: the serializer is an instance already",
    )
    require(
        callable(getattr(serializer, "dumps", None))
        and callable(getattr(serializer, "loads", None)),
        f"serializer={serializer!r} has no dumps() and loads(): pass an aiocache serializer",
    )
    return serializer


class JsonOrBytesSerializer(JsonSerializer):  # type: ignore[misc]
    """aiocache's JSON, which stores bytes as well: the serializer of servers that a URL names."""

    def dumps(self, value: Any) -> str:
        """Return a value as text."""
        if isinstance(value, bytes | bytearray | memoryview):
            return _PREFIX + base64.b64encode(value).decode("ascii")
        text: str = super().dumps(value)
        return text

    def loads(self, value: str | None) -> Any:
        """Return the value of a text; None for None."""
        if value is not None and value.startswith(_PREFIX):
            return base64.b64decode(value[len(_PREFIX) :], validate=True)
        return super().loads(value)
