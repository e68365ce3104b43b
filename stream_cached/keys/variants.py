"""Which variant of a resource a request selects, as far as the selecting headers are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: Returns the digest of a request's values of the given headers.
Select = Callable[[Sequence[str]], str]

#: The names of the headers that select a response, and the digest of a request's values of them.
Variant = tuple[tuple[str, ...], str]

#: The variant while no selecting header is known.
ANY: Variant = ((), "")


def variant_of(names: Sequence[str], select: Select | None) -> Variant:
    known = tuple(sorted(names))
    return (known, select(known)) if known and select else ANY


def is_for(variant: Variant, select: Select | None) -> bool:
    """Whether a request may select this variant."""
    names, digest = variant
    return not names or (select is not None and select(names) == digest)
