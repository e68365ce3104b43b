"""Keys that memcached accepts."""

from __future__ import annotations

import re

from stream_cached.keys.digest import digest
from stream_cached.keys.names import readable

#: The longest key that memcached takes, in bytes.
MEMCACHED_LIMIT = 250

_AWKWARD = re.compile(r"[^\x21-\x7e]")
_SHORTENED = re.compile(r".*#[0-9a-f]{32}")


def for_memcached(key: str, overhead: int = 0) -> str:
    """
    Shorten a key that memcached would refuse: 250 bytes, printable ASCII and no spaces.

    One that looks as if it had been shortened is shortened, too: it could be another's.

    Args:
        key: The key.
        overhead: Bytes that the store puts before it (its namespace).
    """
    fits = 0 < len(key) + overhead <= MEMCACHED_LIMIT and not _AWKWARD.search(key)
    if fits and not _SHORTENED.fullmatch(key):
        return key
    return f"{readable(key)}#{digest(key)}"
