"""The store that compresses what it writes."""

from __future__ import annotations

from collections.abc import Callable

from stream_cached.stores.protocol import Store
from stream_cached.stores.transformed import TransformedStore

Transform = Callable[[bytes], bytes]


class CompressedStore(TransformedStore):
    """
    A store whose values are compressed; one that is not comes out as it is.

    Args:
        store: Where the values are.
        compress: Compresses a value.
        decompress: Does the reverse, and raises where it can't.
    """

    def __init__(self, store: Store, compress: Transform, decompress: Transform) -> None:
        super().__init__(store)
        self._compress = compress
        self._decompress = decompress

    def _to_store(self, key: str, value: bytes) -> bytes:
        return self._compress(value)

    def _from_store(self, key: str, stored: bytes) -> bytes:
        try:
            return self._decompress(stored)
        # Whatever a compressor raises over what it did not write: whoever reads it finds that out.
        except Exception:
            return stored
