"""Records as somebody else would make them up: all checksums are right."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import msgpack

from stream_cached.format.envelope import FORMAT_VERSION, MAGIC, PREFIX_SIZE, read_prefix

GENERATION = bytes(range(16))

_PREFIX = struct.Struct(">8sBB2x16sIIQII")


def pack(
    state: int,
    head: object,
    body: bytes = b"",
    *,
    generation: bytes = GENERATION,
    revision: int = 0,
    version: int = FORMAT_VERSION,
    magic: bytes = MAGIC,
    head_length: int | None = None,
    body_length: int | None = None,
    packed: bytes | None = None,
) -> bytes:
    """What `entry.py` documents, written down once more."""
    if packed is None:
        packed = msgpack.packb(head, unicode_errors="surrogatepass")
    assert packed is not None
    prefix = _PREFIX.pack(
        magic,
        version,
        state,
        generation,
        revision,
        len(packed) if head_length is None else head_length,
        len(body) if body_length is None else body_length,
        zlib.crc32(packed),
        zlib.crc32(body),
    ).ljust(PREFIX_SIZE - 4, b"\0")
    return prefix + struct.pack(">I", zlib.crc32(prefix)) + packed + body


def packed_head(data: bytes) -> bytes:
    return data[PREFIX_SIZE : PREFIX_SIZE + read_prefix(data).head_length]


def head_of(data: bytes) -> Any:
    """The head of a record, to be changed and packed again."""
    return msgpack.unpackb(packed_head(data), use_list=False, unicode_errors="surrogatepass")


def body_of(data: bytes) -> bytes:
    return data[PREFIX_SIZE + read_prefix(data).head_length :]


def altered(data: bytes, **fields: object) -> bytes:
    """A record with other fields in its head."""
    prefix = read_prefix(data)
    head = {**head_of(data), **fields}
    return pack(prefix.state, head, body_of(data), generation=prefix.generation)


def sealed(data: bytes) -> bytes:
    """
    Bytes with a prefix that is right for them.

    State, generation, revision and the length of the head are taken from them where they fit.
    """
    _, _, state, generation, revision, length, *_ = _PREFIX.unpack_from(
        data.ljust(_PREFIX.size, b"\0")
    )
    rest = data[PREFIX_SIZE:]
    edge = min(length, len(rest))
    return pack(
        state, None, rest[edge:], generation=generation, revision=revision, packed=rest[:edge]
    )
