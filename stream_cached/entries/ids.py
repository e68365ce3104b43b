"""Random ids: of runs, of indexes, and of versions."""

from __future__ import annotations

import hashlib
import secrets

#: Bytes of an id.
ID_SIZE = 16


def new_id() -> bytes:
    # A version is stored as it is, and cashews unpickles what it reads: no pickle begins like this.
    return b"\xc1" + secrets.token_bytes(ID_SIZE - 1)


def as_id(value: bytes) -> bytes:
    """Return an id unchanged, and for any other value an id that is derived from it."""
    if len(value) == ID_SIZE:
        return value
    return hashlib.blake2b(value, digest_size=ID_SIZE).digest()
