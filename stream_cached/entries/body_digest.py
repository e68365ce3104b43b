"""The digest of a body, which its ETag is made of."""

from __future__ import annotations

import hashlib
from typing import Protocol

try:
    from xxhash import xxh3_128
except ImportError:
    xxh3_128 = None  # type: ignore[assignment, misc]


class Digest(Protocol):
    """A digest that is being made, of 32 hexadecimal digits or more."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def body_digest(*, sha256: bool, has_tag: bool) -> Digest | None:
    """
    Return the digest of an empty body.

    Args:
        sha256: Whether it has to be a SHA-256.
        has_tag: Whether an ETag is made of it. None is returned where it is for nothing.

    An ETag tells the versions of one resource apart, and guards nothing (RFC 9110, section 8.8.3).
    So XXH3 with 128 bits will do, where it is installed. It takes a tenth of the time of SHA-256,
    for which processors have instructions; BLAKE2 takes twice as long.
    """
    if sha256 or (has_tag and xxh3_128 is None):
        return hashlib.sha256()
    return xxh3_128() if has_tag else None
