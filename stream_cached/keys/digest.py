"""The digest of a structure of plain values.

msgpack delimits every value, so that no value can run into its neighbour. A key holds values only
as digests, because they may be secrets.
"""

from __future__ import annotations

import hashlib

import msgpack


def class_name(value: object) -> str:
    """Return the qualified name of a value's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _packed(structure: object) -> bytes:
    try:
        packed: bytes = msgpack.packb(structure)
    # Without those options it is quicker, and what it packs is the same.
    except (OverflowError, UnicodeEncodeError):
        packed = msgpack.packb(structure, default=_large, unicode_errors="surrogatepass")
    return packed


def _large(value: object) -> object:
    """Return what msgpack packs for an integer that it has no room for."""
    if isinstance(value, int):
        # In hexadecimal: Python refuses to write out many decimal digits.
        return msgpack.ExtType(0, hex(value).encode())
    raise TypeError(f"{class_name(value)} is no plain value")


def digest(structure: object) -> str:
    """Return 32 hexadecimal digits that stand for the structure."""
    return hashlib.blake2b(_packed(structure), digest_size=16).hexdigest()
