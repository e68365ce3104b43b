"""Numbers for objects, as parts of keys within this process."""

from __future__ import annotations

import itertools

from stream_cached.keys.references import Reference, reference_to

_numbers = itertools.count(1)

#: By address: what returns an object, and its number. An address is used again, a number is not.
_known: dict[int, tuple[Reference, int]] = {}


def number_of(value: object) -> int:
    """Return a number that no other object of this process has, or had."""
    address = id(value)
    known = _known.get(address)
    if known is not None and known[0]() is value:
        return known[1]
    number = next(_numbers)
    _known[address] = reference_to(value, lambda _: _forget(address, number)), number
    return number


def _forget(address: int, number: int) -> None:
    known = _known.get(address)
    if known is not None and known[1] == number:
        del _known[address]
