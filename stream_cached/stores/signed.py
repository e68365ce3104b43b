"""The store that signs its values, for a cache that other programs can write to.

Each value is followed by an HMAC-SHA256 over the namespace, the key and the value. The signature
is verified before the value is decoded, and unsigned values are never returned. A signature does
not protect against replay: a program with write access can restore an older value of the same key,
keep a value beyond its ttl, or delete it.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from stream_cached.format.envelope import MAGIC, is_ours
from stream_cached.stores.protocol import FOREIGN, Store
from stream_cached.stores.transformed import TransformedStore

#: Returned for an unsigned record or segment: it decodes as a truncated one.
UNSOUND = MAGIC[:4]

_SIZE = 32

# Separates these signatures from other uses of the same secret.
_LABEL = b"stream_cached: signed value, version 1\n"


class SignedStore(TransformedStore):
    """A store whose values can't be forged, altered, or moved to another key or namespace.

    A value without a valid signature reads as `UNSOUND` if it has our magic, and as `FOREIGN`
    otherwise. The first secret signs; all secrets verify."""

    def __init__(self, store: Store, secrets: Sequence[bytes], context: str) -> None:
        super().__init__(store)
        common = _LABEL + _delimited(context)
        self._signers = [hmac.new(secret, common, "sha256") for secret in secrets]

    def seal(self, key: str, value: bytes) -> bytes:
        return self._to_store(key, value)

    def unseal(self, key: str, sealed: bytes) -> bytes:
        return self._from_store(key, sealed)

    def _to_store(self, key: str, value: bytes) -> bytes:
        return value + self._signature(self._signers[0], _delimited(key), value)

    def _from_store(self, key: str, stored: bytes) -> bytes:
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
    """Return the text after its length, so that its end is unambiguous."""
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "big") + encoded
