"""The codings of stored bodies. What is inflated is never longer than it is known to be."""

from __future__ import annotations

import enum
import functools
import importlib
import zlib
from typing import Any

from stream_cached.compression import zstd_module
from stream_cached.format.envelope import ForeignVersionError
from stream_cached.format.validation import UnsoundError
from stream_cached.limits import VALUE_SIZE

#: The largest window of what zstd has compressed, in powers of two: no part is larger.
_WINDOW_LOG = 20


class Coding(enum.IntEnum):
    """How a part of a body is stored. The numbers stand in records."""

    PLAIN = 0
    ZLIB = 1
    ZSTD = 2


def compressed(coding: Coding, level: int, data: bytes) -> bytes:
    if coding is Coding.ZSTD:
        found: bytes = _zstd().compress(data, level)
        return found
    return zlib.compress(data, level)


def inflated(number: int, data: bytes, size: int) -> bytes:
    """
    Return the bytes of a part that has so many.

    Raises:
        ForeignVersionError: This process does not know the coding.
        UnsoundError: The part is damaged, or has another size.
    """
    require_known(number)
    if not 0 < size <= VALUE_SIZE:
        raise UnsoundError("a part of another size")
    found = inflate_zstd(data, size) if number == Coding.ZSTD else inflate(data, size)
    if len(found) != size:
        raise UnsoundError("the compressed bytes are fewer than they should be")
    return found


def require_known(number: int) -> None:
    """Raise `ForeignVersionError` unless this process can inflate what is so coded."""
    if number == Coding.ZLIB or (number == Coding.ZSTD and _zstd() is not None):
        return
    raise ForeignVersionError(f"coding {number}, which is not known here")


def inflate(data: bytes, max_size: int, *, error: type[ValueError] = UnsoundError) -> bytes:
    """Return what zlib has compressed. Raise an `error` if it is damaged, or larger than that."""
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(data, max_size)
        # The end may follow the last byte that there was room for.
        found += b"" if inflater.eof else inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as exc:
        raise error(f"the compressed bytes are damaged: {exc}") from None
    return _checked(inflater, found, max_size, error)


def inflate_zstd(data: bytes, max_size: int) -> bytes:
    """Return what zstd has compressed. Raise `UnsoundError` if it is damaged, or larger."""
    module = _zstd()
    options = {module.DecompressionParameter.window_log_max: _WINDOW_LOG}
    inflater = module.ZstdDecompressor(options=options)
    try:
        found = inflater.decompress(data, max_size)
        if not inflater.eof and not inflater.needs_input:
            found += inflater.decompress(b"", 1)
    except module.ZstdError as exc:
        raise UnsoundError(f"the compressed bytes are damaged: {exc}") from None
    return _checked(inflater, found, max_size, UnsoundError)


def _checked(inflater: Any, found: bytes, max_size: int, error: type[ValueError]) -> bytes:
    if not inflater.eof or len(found) > max_size:
        raise error(f"the value ends too early, or has more than {max_size} bytes")
    if inflater.unused_data:
        raise error("more follows the compressed bytes")
    return found


@functools.cache
def _zstd() -> Any:
    name = zstd_module()
    return None if name is None else importlib.import_module(name)
