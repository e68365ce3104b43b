"""Packing by msgpack with buffers that are used again: each is larger than nearly all is packed."""

from __future__ import annotations

from typing import Any

import msgpack

#: Bytes of what was packed from which on its buffer is given back.
_LARGE = 64 * 1024


class Packing:
    """
    Packs values, in any thread; a value may pack others while it is packed.

    Args:
        options: Those of `msgpack.Packer`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._free: list[msgpack.Packer] = []

    def __call__(self, value: object) -> bytes:
        """Return the packed value. Raise what `msgpack.packb` raises."""
        try:
            packer = self._free.pop()
        except IndexError:
            packer = msgpack.Packer(**self._options)
        packed: bytes = packer.pack(value)
        # Where it has raised, it is not used again.
        if len(packed) < _LARGE:
            self._free.append(packer)
        return packed


#: Packs text as it is, also where it has no encoding.
pack_any_text = Packing(unicode_errors="surrogatepass")
