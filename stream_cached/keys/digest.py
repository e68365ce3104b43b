"""The digest of a structure of plain values.

msgpack stores the length of every value, so that the ends of adjacent values are unambiguous.
Keys contain values only as digests, because values may be secrets.
"""

from __future__ import annotations

import hashlib

import msgpack

from stream_cached.keys.packing import Packing

_pack = Packing()


def class_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _packed(structure: object) -> bytes:
    try:
        return _pack(structure)
    # Packing without these options is faster, and gives the same bytes where it succeeds.
    except (OverflowError, UnicodeEncodeError):
        packed: bytes = msgpack.packb(structure, default=_large, unicode_errors="surrogatepass")
        return packed


def _large(value: object) -> object:
    """Return a msgpack extension for an integer of more than 64 bits."""
    if isinstance(value, int):
        # Hexadecimal, because Python refuses to write several thousand decimal digits.
        return msgpack.ExtType(0, hex(value).encode())
    raise TypeError(f"{class_name(value)} is no plain value")


def digest(structure: object) -> str:
    return hashlib.blake2b(_packed(structure), digest_size=16).hexdigest()
