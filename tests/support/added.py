"""What the cache adds to the headers of a hit, for comparisons with an answer without a cache."""

from __future__ import annotations

#: The names of the headers, lower-cased. An ETag is added only where the endpoint sends none.
ADDED = frozenset({"accept-ranges", "age", "cache-status", "etag"})

#: The same as bytes.
ADDED_BYTES = frozenset(name.encode("ascii") for name in ADDED)
