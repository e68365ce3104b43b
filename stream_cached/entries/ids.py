"""Random ids: of runs, of indexes, and of versions."""

from __future__ import annotations

import hashlib
import secrets
import struct

#: Bytes of an id.
ID_SIZE = 16


def new_id() -> bytes:
    # A version is stored as it is, and cashews unpickles what it reads: no pickle begins like this.
    return b"\xc1" + secrets.token_bytes(ID_SIZE - 1)


#: How many earlier versions a soft invalidation remembers.
_REMEMBERED = 4

_SINCE = struct.Struct(">d")


def version_of(value: bytes | None) -> bytes | None:
    """Return the id in the value of a version; None for a value that is none."""
    if value is None or len(value) < ID_SIZE or (len(value) - ID_SIZE) % _STEP:
        return None
    return value[:ID_SIZE]


def softened(value: bytes | None, now: float) -> bytes:
    """
    Return a new version that remembers the one before: what was made under it is stale now.

    Args:
        value: The value of the version before; None if there is none.
        now: Seconds since the epoch.
    """
    before = version_of(value)
    if value is None or before is None:
        return new_id()
    earlier = value[ID_SIZE:][: (_REMEMBERED - 1) * _STEP]
    return new_id() + before + _SINCE.pack(now) + earlier


def stale_since(value: bytes | None, version: bytes | None) -> float | None:
    """Return since when a version has been replaced by soft invalidations; None if it was not."""
    if value is None or version_of(value) is None:
        return None
    for start in range(ID_SIZE, len(value), _STEP):
        if value[start : start + ID_SIZE] == version:
            (since,) = _SINCE.unpack(value[start + ID_SIZE : start + _STEP])
            return float(since)
    return None


_STEP = ID_SIZE + _SINCE.size


def as_id(value: bytes) -> bytes:
    """Return an id unchanged, and for any other value an id that is derived from it."""
    if len(value) == ID_SIZE:
        return value
    return hashlib.blake2b(value, digest_size=ID_SIZE).digest()
