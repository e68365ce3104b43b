"""Which variant of a resource a request is for, as far as that is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: Returns the digest of a request's values for some headers.
Select = Callable[[Sequence[str]], str]

#: The names of the headers that are known to select a response, and the digest of a request's
#: values for them.
Variant = tuple[tuple[str, ...], str]

#: Where nothing is known to select it.
ANY: Variant = ((), "")


def variant_of(names: Sequence[str], select: Select | None) -> Variant:
    """Return the variant that a request is for, where these headers select it."""
    known = tuple(sorted(names))
    return (known, select(known)) if known and select else ANY


def is_for(variant: Variant, select: Select | None) -> bool:
    """Whether a request may be one for a variant."""
    names, digest = variant
    return not names or (select is not None and select(names) == digest)
