"""Keys that memcached accepts."""

from __future__ import annotations

import re

from stream_cached.keys.digest import digest
from stream_cached.keys.names import readable

#: The longest key that memcached accepts, in bytes of ASCII without spaces.
MEMCACHED_LIMIT = 250

_AWKWARD = re.compile(r"[^\x21-\x7e]")
_SHORTENED = re.compile(r".*#[0-9a-f]{32}")


def for_memcached(key: str, overhead: int = 0) -> str:
    """Return a key that memcached accepts; `overhead` is the namespace's length in bytes."""
    # A key that already looks shortened is shortened again, because another key may have been
    # shortened to it.
    fits = 0 < len(key) + overhead <= MEMCACHED_LIMIT and not _AWKWARD.search(key)
    if fits and not _SHORTENED.fullmatch(key):
        return key
    return f"{readable(key)}#{digest(key)}"
