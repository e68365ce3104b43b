"""How bodies are compressed in the store, as one group of settings."""

from __future__ import annotations

import fnmatch
import functools
import importlib.util
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from stream_cached.checks import require, require_size
from stream_cached.limits import Size

#: The values of `codec`.
Codec = Literal["zlib", "zstd"]

#: The highest levels.
_LEVELS = {"zlib": 9, "zstd": 19}

#: What texts are stored as. Images, archives and the like are compressed already.
MEDIA_TYPES = (
    "text/*",
    "application/json",
    "application/*+json",
    "application/jsonl",
    "application/x-ndjson",
    "application/ndjson",
    "application/javascript",
    "application/xml",
    "application/*+xml",
    "application/sql",
    "application/x-yaml",
    "application/yaml",
    "image/svg+xml",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """
    How bodies are compressed in the store. What clients are sent is the same without it.

    Pass it to the decorator: `@stream_cached(ttl=60, compress=Compression(codec="zstd"))`. The name
    of a codec alone, `compress="zstd"`, stands for one with these defaults.

    Args:
        codec: `"zlib"`, or `"zstd"`, which is quicker, makes less of a body, and needs
            `pip install "stream-cached[zstd]"` for a Python older than 3.14.
        level: From 1, the quickest, to 9 for zlib and to 19 for zstd.
        min_size: Bytes of a body, or of a part of one, below which it is stored as it is. A number,
            or a text such as `"4KiB"`.
        media_types: The media types of bodies that are compressed; `*` stands for any letters.

    Raises:
        ConfigurationError: A field has no valid value, or the codec is not installed.
    """

    codec: Codec = "zlib"
    level: int = 1
    min_size: Size = Size("1KiB")
    media_types: tuple[str, ...] = MEDIA_TYPES

    def __post_init__(self) -> None:
        require(
            self.codec in get_args(Codec),
            f'codec={self.codec!r}: pass "zlib" or "zstd"',
        )
        highest = _LEVELS[self.codec]
        require(
            type(self.level) is int and 1 <= self.level <= highest,
            f"level={self.level!r}: pass a whole number from 1 to {highest}",
        )
        object.__setattr__(self, "min_size", require_size("min_size", self.min_size, least=0))
        object.__setattr__(self, "media_types", _names(self.media_types))
        require(
            self.codec != "zstd" or has_zstd(),
            'compress="zstd" needs a library that is not installed: '
            'pip install "stream-cached[zstd]"',
        )

    def applies_to(self, media_type: str) -> bool:
        """Whether bodies of a media type, whose parameters may follow, are compressed."""
        name = media_type.partition(";")[0].strip().lower()
        return _pattern_of(self.media_types).fullmatch(name) is not None


def check_compress(name: str, value: Any) -> Compression | None:
    if value is None or isinstance(value, Compression):
        return value
    require(
        value in get_args(Codec),
        f'{name}={value!r}: pass "zlib", "zstd", None, or Compression(codec="zstd", level=3), say',
    )
    return Compression(codec=value)


@functools.cache
def has_zstd() -> bool:
    return zstd_module() is not None


def zstd_module() -> str | None:
    """Return the name of the module that has zstd; None if none is installed."""
    if sys.version_info >= (3, 14):
        # A Python may be built without it.
        return "compression.zstd" if importlib.util.find_spec("_zstd") else None
    try:
        found = importlib.util.find_spec("backports.zstd")
    except ModuleNotFoundError:
        return None
    return None if found is None else "backports.zstd"


def _names(names: Any) -> tuple[str, ...]:
    hint = f'media_types={names!r}: pass a tuple of names, media_types=("text/*",)'
    require(isinstance(names, Iterable) and not isinstance(names, str), hint)
    found = tuple(cast(Iterable[Any], names))
    require(all(isinstance(each, str) and "/" in each for each in found), hint)
    return tuple(each.lower() for each in found)


@functools.lru_cache(maxsize=100)
def _pattern_of(names: tuple[str, ...]) -> re.Pattern[str]:
    # Without a name, nothing matches.
    return re.compile("|".join(map(fnmatch.translate, names)) or r"(?!)")
