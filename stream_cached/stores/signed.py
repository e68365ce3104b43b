"""The store that signs what it writes, for a cache that others can write to.

Each value is followed by an HMAC-SHA256 over the namespace, the key and the value, which is checked
before anything looks into it. Nothing that is not signed gets through, not even as bytes. What a
signature can't tell is when a value was written: whoever can write to the cache can put back what
stood under the same key before, keep it beyond its ttl, or delete it.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from stream_cached.format.envelope import MAGIC, is_ours
from stream_cached.stores.protocol import FOREIGN, Store
from stream_cached.stores.transformed import TransformedStore

#: Stands for a record or a segment that is not signed: for whoever reads it, one that is cut.
UNSOUND = MAGIC[:4]

_SIZE = 32

# No other use of the same secret signs what begins like this.
_LABEL = b"stream_cached: signed value, version 1\n"


class SignedStore(TransformedStore):
    """
    A store whose values can't be made up, altered, or moved to another key or namespace.

    A value that is not signed, or not for its key, comes out as `UNSOUND` where it claims to be of
    this library's format, and as `FOREIGN` otherwise.

    Args:
        store: Where the values are, with their signatures.
        secrets: The first one signs, all of them verify.
        context: The namespace of the keys.
    """

    def __init__(self, store: Store, secrets: Sequence[bytes], context: str) -> None:
        super().__init__(store)
        common = _LABEL + _delimited(context)
        self._signers = [hmac.new(secret, common, "sha256") for secret in secrets]

    def _to_store(self, key: str, value: bytes) -> bytes:
        return value + self._signature(self._signers[0], _delimited(key), value)

    def _from_store(self, key: str, stored: bytes) -> bytes:
        """Return a value without its signature, or what stands for one that is not signed."""
        if len(stored) >= _SIZE:
            prefix, whole = _delimited(key), memoryview(stored)
            value, found = whole[:-_SIZE], whole[-_SIZE:]
            for signer in self._signers:
                if hmac.compare_digest(self._signature(signer, prefix, value), found):
                    return bytes(value)
        return UNSOUND if is_ours(stored) else FOREIGN

    @staticmethod
    def _signature(signer: hmac.HMAC, prefix: bytes, value: bytes | memoryview) -> bytes:
        signing = signer.copy()
        signing.update(prefix)
        signing.update(value)
        return signing.digest()


def _delimited(text: str) -> bytes:
    """Return a text with its length, so that it can't run into what follows."""
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "big") + encoded
