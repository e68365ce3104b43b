"""What a request wants of a cache (RFC 9111, section 5.2.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stream_cached.http.directives import delta_seconds, parse


@dataclass(frozen=True, slots=True)
class Wishes:
    """The directives of one request. Those that cost a run are there only if they are honoured."""

    no_store: bool = False
    only_if_cached: bool = False
    no_cache: bool = False
    max_age: int | None = None
    min_fresh: int | None = None
    max_stale: float | None = None
    """Seconds; infinity if any stale response is welcome."""

    def of_another_call(self) -> Wishes:
        """Return what counts for an answer that another one is made of, which all may be given."""
        return replace(self, only_if_cached=False, max_stale=None)

    def suit(self, age: int, fresh_for: float) -> bool:
        """Whether a response of this age is welcome that is fresh for so long."""
        if self.max_age is not None and age > self.max_age:
            return False
        return fresh_for >= (self.min_fresh or 0)

    def forbid_stale(self, age: int) -> bool:
        """Whether a stale response of this age is not welcome, while a new one is made."""
        return self.min_fresh is not None or (self.max_age is not None and age > self.max_age)

    def may_be_late(self, late: float) -> bool:
        """Whether a response is welcome that is stale for so long."""
        return self.max_stale is not None and late <= self.max_stale and self.min_fresh is None


NO_WISHES = Wishes()


def wishes_of(
    cache_control: Sequence[bytes], pragma: Sequence[bytes], *, is_honoured: bool
) -> Wishes:
    """
    Return what a request wants.

    Args:
        cache_control: The lines of its Cache-Control.
        pragma: Those of its Pragma, which counts without Cache-Control (section 5.4).
        is_honoured: Whether it may ask for a response that is newer than the stored one.
    """
    directives = parse(cache_control or pragma)
    if not cache_control:
        return Wishes(no_cache=directives.forbids("no-cache") and is_honoured)
    no_store = directives.forbids("no-store")
    only_if_cached = directives.forbids("only-if-cached")
    if not is_honoured:
        return Wishes(no_store, only_if_cached)
    stale = [
        math.inf if each is None else float(delta_seconds(each) or 0)
        for each in directives.well_formed.get("max-stale", ())
    ]
    return Wishes(
        no_store,
        only_if_cached,
        directives.forbids("no-cache"),
        directives.seconds("max-age"),
        directives.seconds("min-fresh"),
        min(stale, default=None),
    )
